"""The draft model's steps as flat arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from octavo.engine.batch import Batch, SamplingBatch
from octavo.engine.sampling_state import gather

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

    from octavo.engine.block_manager import BlockTable, Copy
    from octavo.engine.sequence import Sequence


@dataclass(slots=True)
class Part:
    """Tokens of one sequence to compute from position `start` on, in the blocks of `table`, and whether
    the one after them is drawn."""

    sequence: Sequence
    table: BlockTable
    start: int
    token_ids: Items[int]
    draws: bool = True


def build_batch(parts: Items[Part], copies: Items[Copy]) -> Batch:
    query_lens = np.array([len(part.token_ids) for part in parts], np.int32)
    context_lens = np.array([part.start for part in parts], np.int32) + query_lens
    ends = np.cumsum(query_lens, dtype=np.int32)
    block_tables = np.zeros((len(parts), max(len(part.table.blocks) for part in parts)), np.int32)
    for i, part in enumerate(parts):
        block_tables[i, : len(part.table.blocks)] = part.table.blocks
    drawing = [i for i, part in enumerate(parts) if part.draws]
    return Batch(
        token_ids=np.concatenate([np.array(part.token_ids, np.int32) for part in parts]),
        positions=np.arange(ends[-1], dtype=np.int32) + np.repeat(context_lens - ends, query_lens),
        query_lens=query_lens,
        context_lens=context_lens,
        block_tables=block_tables,
        copies=np.array(copies, np.int32).reshape(-1, 2),
        sampling=_sampling(
            [parts[i].sequence for i in drawing],
            ends[drawing] - 1,
            context_lens[drawing].astype(np.int64),
        ),
    )


def _sampling(sequences: Items[Sequence], rows: np.ndarray, draws: np.ndarray) -> SamplingBatch:
    """Draws as the sequences do, but from the draft model's plain distribution: penalties, biases and
    masks are left to the target."""
    table = gather([sequence.sampling for sequence in sequences])
    count = len(sequences)
    no_rows, no_values = np.empty(0, np.int32), np.empty(0, np.float32)
    return SamplingBatch(
        rows=rows,
        temperature=table["temperature"].copy(),
        top_k=table["top_k"].copy(),
        top_p=table["top_p"].copy(),
        min_p=table["min_p"].copy(),
        seeds=table["seed"].copy(),
        draws=draws,
        repetition=np.ones(count, np.float32),
        frequency=np.zeros(count, np.float32),
        presence=np.zeros(count, np.float32),
        seen_rows=no_rows,
        seen_tokens=no_rows,
        seen_counts=no_values,
        bias_rows=no_rows,
        bias_tokens=no_rows,
        bias_values=no_values,
        logprobs=np.full(count, -1, np.int32),
        candidates=np.zeros(count, np.int32),
    )
