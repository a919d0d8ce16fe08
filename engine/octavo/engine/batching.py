"""From a step plan to the flat arrays that a runner takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from octavo.engine.batch import Batch, SamplingBatch
from octavo.engine.sampling_state import ROW

if TYPE_CHECKING:
    from octavo.engine.scheduler import StepPlan
    from octavo.engine.sequence import Sequence


def build_batch(plan: StepPlan) -> tuple[Batch, list[Sequence]]:
    """The step's batch, and the sequences that draw a token in it, in the order of the sampling rows."""
    num_seqs = len(plan.chunks)
    query_lens = np.array([count for _, count in plan.chunks], np.int32)
    starts = np.array([sequence.num_computed_tokens for sequence, _ in plan.chunks], np.int32)
    ends = np.cumsum(query_lens, dtype=np.int32)
    token_ids = np.empty(ends[-1], np.int32)
    widest = max(len(sequence.table.blocks) for sequence, _ in plan.chunks)
    block_tables = np.zeros((num_seqs, widest), np.int32)
    sampled: list[Sequence] = []
    rows: list[int] = []
    for i, (sequence, count) in enumerate(plan.chunks):
        start, end = sequence.num_computed_tokens, int(ends[i])
        token_ids[end - count : end] = sequence.token_ids[start : start + count]
        block_tables[i, : len(sequence.table.blocks)] = sequence.table.blocks
        if start + count == len(sequence.token_ids):
            sampled.append(sequence)
            rows.append(end - 1)
    # Positions count up from each sequence's start: a ramp over all tokens, shifted per sequence.
    positions = np.arange(ends[-1], dtype=np.int32) + np.repeat(starts - (ends - query_lens), query_lens)
    batch = Batch(
        token_ids=token_ids,
        positions=positions,
        query_lens=query_lens,
        context_lens=starts + query_lens,
        block_tables=block_tables,
        copies=np.array(plan.copies, np.int32).reshape(-1, 2),
        sampling=_sampling(sampled, np.array(rows, np.int32)),
    )
    return batch, sampled


def _sampling(sampled: list[Sequence], rows: np.ndarray) -> SamplingBatch:
    table = np.concatenate([s.sampling.row for s in sampled]) if sampled else np.empty(0, ROW)
    seen = [(i, *s.sampling.seen.entries(s.token_ids)) for i, s in enumerate(sampled) if s.sampling.seen]
    forbidden = [
        (i, s.stop_tokens) for i, s in enumerate(sampled) if s.num_output_tokens < s.params.min_tokens
    ]
    bias_tokens = np.array([token for _, tokens in forbidden for token in tokens], np.int32)
    return SamplingBatch(
        rows=rows,
        temperature=np.ascontiguousarray(table["temperature"]),
        top_k=np.ascontiguousarray(table["top_k"]),
        top_p=np.ascontiguousarray(table["top_p"]),
        min_p=np.ascontiguousarray(table["min_p"]),
        seeds=np.ascontiguousarray(table["seed"]),
        draws=np.array([len(s.token_ids) for s in sampled], np.int64),
        repetition=np.ascontiguousarray(table["repetition"]),
        frequency=np.ascontiguousarray(table["frequency"]),
        presence=np.ascontiguousarray(table["presence"]),
        seen_rows=_concatenate([np.full(len(tokens), i, np.int32) for i, tokens, _ in seen], np.int32),
        seen_tokens=_concatenate([tokens for _, tokens, _ in seen], np.int32),
        seen_counts=_concatenate([counts for _, _, counts in seen], np.float32),
        bias_rows=np.array([i for i, tokens in forbidden for _ in tokens], np.int32),
        bias_tokens=bias_tokens,
        bias_values=np.full(len(bias_tokens), -np.inf, np.float32),
        logprobs=np.ascontiguousarray(table["logprobs"]),
    )


def _concatenate(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype)
