"""From a step plan to the flat arrays that a runner takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from octavo.engine.batch import Batch, SamplingBatch, ScoringBatch
from octavo.engine.sampling_state import ROW

if TYPE_CHECKING:
    from octavo.engine.masks import Masking
    from octavo.engine.scheduler import StepPlan
    from octavo.engine.sequence import Sequence


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
class _Row:
    """One row to draw: of whom, after which guesses, and from which of the batch's tokens."""

    taker: Sequence
    ahead: list[int]
    token: int


def build_batch(plan: StepPlan, masking: Masking | None = None) -> tuple[Batch, list[Draw]]:
    """The step's batch, and who draws in it, in the order of the sampling rows."""
    num_seqs = len(plan.chunks)
    drafts = [len(sequence.draft) for sequence, _ in plan.chunks]
    query_lens = np.array([count for _, count in plan.chunks], np.int32) + np.array(drafts, np.int32)
    starts = np.array([sequence.num_computed_tokens for sequence, _ in plan.chunks], np.int32)
    ends = np.cumsum(query_lens, dtype=np.int32)
    token_ids = np.empty(ends[-1], np.int32)
    widest = max(len(sequence.table.blocks) for sequence, _ in plan.chunks)
    block_tables = np.zeros((num_seqs, widest), np.int32)
    draws: list[Draw] = []
    rows: list[_Row] = []
    for i, (sequence, count) in enumerate(plan.chunks):
        start, draft = sequence.num_computed_tokens, sequence.draft
        end = int(ends[i]) - len(draft)
        token_ids[end - count : end] = sequence.token_ids[start : start + count]
        block_tables[i, : len(sequence.table.blocks)] = sequence.table.blocks
        if start + count == len(sequence.token_ids):
            takers = sequence.request.takers(sequence)
            draws.append(Draw(sequence, takers, len(rows)))
            rows += [_Row(taker, [], end - 1) for taker in takers]
            if draft:
                token_ids[end : end + len(draft)] = draft
                rows += [_Row(sequence, draft[:ahead], end - 1 + ahead) for ahead in range(1, len(draft) + 1)]
    # Positions count up from each sequence's start: a ramp over all tokens, shifted per sequence.
    positions = np.arange(ends[-1], dtype=np.int32) + np.repeat(starts - (ends - query_lens), query_lens)
    batch = Batch(
        token_ids=token_ids,
        positions=positions,
        query_lens=query_lens,
        context_lens=starts + query_lens,
        block_tables=block_tables,
        copies=np.array(plan.copies, np.int32).reshape(-1, 2),
        sampling=_sampling(rows, masking),
        scoring=_scoring(plan, ends),
    )
    return batch, draws


def _sampling(rows: list[_Row], masking: Masking | None) -> SamplingBatch:
    table = np.concatenate([row.taker.sampling.row for row in rows]) if rows else np.empty(0, ROW)
    seen = [
        (i, *(state.entries_after(row.taker.token_ids, row.ahead)))
        for i, row in enumerate(rows)
        if (state := row.taker.sampling.seen) is not None
    ]
    biases = [
        (i, *row.taker.sampling.biases(row.taker.token_ids, row.ahead, row.taker.num_output_tokens))
        for i, row in enumerate(rows)
        if row.taker.sampling.is_biased
    ]
    mask_rows, masks = masking.begin([row.taker for row in rows]) if masking is not None else ([], None)
    return SamplingBatch(
        rows=np.array([row.token for row in rows], np.int32),
        temperature=np.ascontiguousarray(table["temperature"]),
        top_k=np.ascontiguousarray(table["top_k"]),
        top_p=np.ascontiguousarray(table["top_p"]),
        min_p=np.ascontiguousarray(table["min_p"]),
        seeds=np.ascontiguousarray(table["seed"]),
        draws=np.array([len(row.taker.token_ids) + len(row.ahead) for row in rows], np.int64),
        repetition=np.ascontiguousarray(table["repetition"]),
        frequency=np.ascontiguousarray(table["frequency"]),
        presence=np.ascontiguousarray(table["presence"]),
        seen_rows=_concatenate([np.full(len(tokens), i, np.int32) for i, tokens, _ in seen], np.int32),
        seen_tokens=_concatenate([tokens for _, tokens, _ in seen], np.int32),
        seen_counts=_concatenate([counts for _, _, counts in seen], np.float32),
        bias_rows=_concatenate([np.full(len(tokens), i, np.int32) for i, tokens, _ in biases], np.int32),
        bias_tokens=_concatenate([tokens for _, tokens, _ in biases], np.int32),
        bias_values=_concatenate([values for _, _, values in biases], np.float32),
        logprobs=np.ascontiguousarray(table["logprobs"]),
        candidates=np.ascontiguousarray(table["candidates"]),
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
    return ScoringBatch(rows=_concatenate(rows, np.int32), targets=_concatenate(targets, np.int32), most=most)


def scored(sequence: Sequence, count: int) -> tuple[int, int]:
    """The first, and the one after the last, of the prompt's tokens that a chunk scores.

    The chunk is of `count` tokens that are not computed yet. What a preempted sequence computes again is
    scored but once.
    """
    request, start = sequence.request, sequence.num_computed_tokens
    if not request.lacks_prompt_logprobs:
        return 0, 0
    known = 1 + len(request.prompt_logprobs)
    return max(start + 1, known), min(start + count + 1, 1 + request.num_prompt_logprobs)


def _concatenate(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype)
