"""What crosses the runner seam: one step's work as flat arrays, and its result. No torch, no request
objects."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Masks = npt.NDArray[np.uint32]


def _none() -> Ints:
    return np.empty(0, np.int32)


def drawn(row: int) -> int:
    """What stands for the token that the step submitted before draws in a row, -1 or less."""
    return -1 - row


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingBatch:
    """How to choose one token for each of `num_rows` rows.

    rows: int32 [num_rows], index of each row's token among the batch's tokens; its logits are sampled.
    temperature, top_p, min_p: float32 [num_rows]; top_k: int32 [num_rows], 0 for all. Temperature 0 is
        greedy.
    seeds: uint64 [num_rows] and draws: int64 [num_rows], the position of the token being drawn: together the
        key of the row's random number, so that a sequence continues the same on any runner, in any batch.
    repetition, frequency, presence: float32 [num_rows], the penalties.
    seen_rows, seen_tokens: int32 [num_seen]: token `seen_tokens[i]` stands in the prompt or output of row
        `seen_rows[i]`, `seen_counts[i]` (float32) times in the output. Only rows with a penalty have entries.
    bias_rows, bias_tokens: int32 [num_biases], bias_values: float32 [num_biases]: added to single logits;
        minus infinity forbids a token.
    logprobs: int32 [num_rows]: -1 for none, else how many of the likeliest tokens are reported.
    candidates: int32 [num_rows], of a beam search how many of the likeliest tokens are wanted, after
        penalties, biases and masks, which then apply to log-probabilities instead of logits; 0 elsewhere.
        Nothing is drawn for such a row.
    mask_rows: int32 [num_masked], the rows of which only some tokens may be chosen, and masks: asked once the
        logits are there, for it may wait, these tokens as bits: uint32 [num_masked, ceil(vocab_size / 32)],
        token t at bit t % 32 of word t // 32.
    """

    rows: Ints
    temperature: Floats
    top_k: Ints
    top_p: Floats
    min_p: Floats
    seeds: npt.NDArray[np.uint64]
    draws: npt.NDArray[np.int64]
    repetition: Floats
    frequency: Floats
    presence: Floats
    seen_rows: Ints
    seen_tokens: Ints
    seen_counts: Floats
    bias_rows: Ints
    bias_tokens: Ints
    bias_values: Floats
    logprobs: Ints
    candidates: Ints
    mask_rows: Ints = field(default_factory=_none)
    masks: Callable[[], Masks] | None = None

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringBatch:
    """Tokens of prompts whose log-probabilities are wanted.

    rows: int32 [num_scored], indices among the batch's tokens; targets: int32 [num_scored], the token that
        follows each. most: how many of the likeliest tokens are reported beside it, for all alike.
    """

    rows: Ints = field(default_factory=_none)
    targets: Ints = field(default_factory=_none)
    most: int = 0

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One step: every sequence's new tokens end to end, decodes (one token) and prefill chunks alike.

    token_ids, positions: int32 [num_tokens]. A token that the step before draws is `drawn(row)` here.
    query_lens: int32 [num_seqs], new tokens per sequence, all at least 1; their sum is num_tokens.
    context_lens: int32 [num_seqs], tokens whose keys and values exist once the step is done.
    block_tables: int32 [num_seqs, max_blocks], the blocks of each sequence in order, padded with 0.
    copies: int32 [num_copies, 2], (source, target) blocks to copy before anything is written.
    """

    token_ids: Ints
    positions: Ints
    query_lens: Ints
    context_lens: Ints
    block_tables: Ints
    copies: Ints
    sampling: SamplingBatch
    scoring: ScoringBatch = field(default_factory=ScoringBatch)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutput:
    """token_ids: int32 [num_rows], the chosen tokens in the order of `SamplingBatch.rows`.

    Where any row asked for them: logprobs: float32 [num_rows], the chosen tokens' log-probabilities;
    top_ids: int32 and top_logprobs: float32, [num_rows, most asked], likeliest first. None where no row
        asked.
    candidate_ids: int32 and candidate_logprobs: float32, [num_rows, most asked], likeliest first, where a row
        is of a beam search.
    scored: as for the rows, of `ScoringBatch`; its token_ids are the targets.
    """

    token_ids: Ints
    logprobs: Floats | None = None
    top_ids: Ints | None = None
    top_logprobs: Floats | None = None
    candidate_ids: Ints | None = None
    candidate_logprobs: Floats | None = None
    scored: StepOutput | None = None


def with_drawn(batch: Batch, previous: StepOutput | None) -> Batch:
    """The batch with the tokens that the step before drew, for a runner that has them in host memory."""
    at = np.flatnonzero(batch.token_ids < 0)
    if not len(at):
        return batch
    assert previous is not None
    token_ids = batch.token_ids.copy()
    token_ids[at] = previous.token_ids[-1 - token_ids[at]]
    return replace(batch, token_ids=token_ids)
