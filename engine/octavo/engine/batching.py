"""From a step plan to the flat arrays that a runner takes."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from octavo.engine.batch import Batch, SamplingBatch, ScoringBatch
from octavo.engine.sampling_state import gather

if TYPE_CHECKING:
    from collections.abc import Sequence as Tokens

    from octavo.engine.masks import Masking
    from octavo.engine.scheduler import StepPlan
    from octavo.engine.sequence import Sequence

_INT = array("i").itemsize


@dataclass(slots=True)
class Draw:
    """A sequence that is computed to its end in a step, and what is drawn from its logits.

    takers: who draw a token after its last one, each in a row of its own: the sequence, or at first all of
        its request. A sequence with a draft draws once more after each of its guesses.
    row: the first of its rows.
    """

    sequence: Sequence
    takers: list[Sequence]
    row: int


@dataclass(slots=True)
class _Rows:
    """The rows to draw, a list for each field: of whom, after which guesses, and from which of the batch's
    tokens."""

    takers: list[Sequence] = field(default_factory=list)
    ahead: list[Tokens[int]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def add(self, taker: Sequence, ahead: Tokens[int], token: int) -> None:
        self.takers.append(taker)
        self.ahead.append(ahead)
        self.tokens.append(token)


def build_batch(plan: StepPlan, masking: Masking | None = None) -> tuple[Batch, list[Draw]]:
    """The step's batch, and who draws in it, in the order of the sampling rows.

    What is gathered of each sequence goes through arrays of the standard library and bytes: NumPy takes
    microseconds over every small piece.
    """
    width = max(len(sequence.table.blocks) for sequence, _ in plan.chunks) * _INT
    token_ids, tables = array("i"), bytearray()
    query_lens: list[int] = []
    starts: list[int] = []
    draws: list[Draw] = []
    rows = _Rows()
    for sequence, count in plan.chunks:
        start, ids, draft = sequence.num_computed_tokens, sequence.token_ids, sequence.draft
        if count == 1:
            token_ids.append(ids[start])
        else:
            token_ids += ids[start : start + count]
        if start + count == len(ids):
            last = len(token_ids) - 1
            takers = sequence.request.takers(sequence)
            draws.append(Draw(sequence, takers, len(rows.tokens)))
            for taker in takers:
                rows.add(taker, (), last)
            for ahead in range(1, len(draft) + 1):
                rows.add(sequence, draft[:ahead], last + ahead)
        token_ids.extend(draft)
        tables += sequence.table.blocks.tobytes().ljust(width, b"\0")
        starts.append(start)
        query_lens.append(count + len(draft))
    before, lengths = np.array(starts, np.int32), np.array(query_lens, np.int32)
    ends = np.cumsum(lengths, dtype=np.int32)
    # Positions count up from each sequence's start: a ramp over all tokens, shifted per sequence.
    positions = np.arange(len(token_ids), dtype=np.int32) + np.repeat(before - (ends - lengths), lengths)
    batch = Batch(
        token_ids=np.frombuffer(token_ids, np.int32),
        positions=positions,
        query_lens=lengths,
        context_lens=before + lengths,
        block_tables=np.frombuffer(tables, np.int32).reshape(len(starts), -1),
        copies=np.array(plan.copies, np.int32).reshape(-1, 2),
        sampling=_sampling(rows, masking),
        scoring=_scoring(plan, ends),
    )
    return batch, draws


def _sampling(rows: _Rows, masking: Masking | None) -> SamplingBatch:
    takers = rows.takers
    states = [taker.sampling for taker in takers]
    table = gather(states)
    seen = [
        (i, *state.seen.entries_after(takers[i].token_ids, rows.ahead[i]))
        for i, state in enumerate(states)
        if state.seen is not None
    ]
    biases = [
        (i, *state.biases(takers[i].token_ids, rows.ahead[i], takers[i].num_output_tokens))
        for i, state in enumerate(states)
        if state.is_biased
    ]
    mask_rows, masks = masking.begin(takers) if masking is not None else ([], None)
    return SamplingBatch(
        rows=np.array(rows.tokens, np.int32),
        temperature=table["temperature"].copy(),
        top_k=table["top_k"].copy(),
        top_p=table["top_p"].copy(),
        min_p=table["min_p"].copy(),
        seeds=table["seed"].copy(),
        draws=np.array(
            [len(taker.token_ids) + len(ahead) for taker, ahead in zip(takers, rows.ahead, strict=True)],
            np.int64,
        ),
        repetition=table["repetition"].copy(),
        frequency=table["frequency"].copy(),
        presence=table["presence"].copy(),
        seen_rows=_concatenate([np.full(len(tokens), i, np.int32) for i, tokens, _ in seen], np.int32),
        seen_tokens=_concatenate([tokens for _, tokens, _ in seen], np.int32),
        seen_counts=_concatenate([counts for _, _, counts in seen], np.float32),
        bias_rows=_concatenate([np.full(len(tokens), i, np.int32) for i, tokens, _ in biases], np.int32),
        bias_tokens=_concatenate([tokens for _, tokens, _ in biases], np.int32),
        bias_values=_concatenate([values for _, _, values in biases], np.float32),
        logprobs=table["logprobs"].copy(),
        candidates=table["candidates"].copy(),
        mask_rows=np.array(mask_rows, np.int32),
        masks=masks,
    )


def _scoring(plan: StepPlan, ends: np.ndarray) -> ScoringBatch:
    """The prompts' tokens of this step whose successors are to be scored, in the order of the chunks."""
    rows: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    most = 0
    for i, (sequence, count) in enumerate(plan.chunks):
        first, stop = scored(sequence, count)
        if first < stop:
            token = int(ends[i]) - len(sequence.draft) - count - sequence.num_computed_tokens
            rows.append(np.arange(token + first - 1, token + stop - 1, dtype=np.int32))
            targets.append(np.array(sequence.token_ids[first:stop], np.int32))
            most = max(most, sequence.params.prompt_logprobs or 0)
    if not rows:
        return ScoringBatch()
    return ScoringBatch(rows=_concatenate(rows, np.int32), targets=_concatenate(targets, np.int32), most=most)


def scored(sequence: Sequence, count: int) -> tuple[int, int]:
    """The first, and the one after the last, of the prompt's tokens that a chunk scores.

    The chunk is of `count` tokens that are not computed yet. What a preempted sequence computes again is
    scored but once.
    """
    request, start = sequence.request, sequence.num_computed_tokens
    if not request.num_prompt_logprobs or not request.lacks_prompt_logprobs:
        return 0, 0
    known = 1 + len(request.prompt_logprobs)
    return max(start + 1, known), min(start + count + 1, 1 + request.num_prompt_logprobs)


def _concatenate(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype)
