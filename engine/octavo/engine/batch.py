"""What crosses the runner seam: one step's work as flat arrays, and its result. No torch, no request
objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


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

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One step: every sequence's new tokens end to end, decodes (one token) and prefill chunks alike.

    token_ids, positions: int32 [num_tokens].
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


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutput:
    """token_ids: int32 [num_rows], the chosen tokens in the order of `SamplingBatch.rows`.

    Where any row asked for them: logprobs: float32 [num_rows], the chosen tokens' log-probabilities;
    top_ids: int32 and top_logprobs: float32, [num_rows, most asked], likeliest first. None where no row
        asked.
    """

    token_ids: Ints
    logprobs: Floats | None = None
    top_ids: Ints | None = None
    top_logprobs: Floats | None = None
