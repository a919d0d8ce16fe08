"""Batches made by hand, of texts whose keys and values lie in blocks as scattered as a busy pool's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from octavo.engine.batch import Batch, SamplingBatch
from octavo.engine.config import BLOCK_SIZE
from tests.conftest import GPU_OR_CPU


@dataclass(frozen=True)
class Piece:
    """A step's share of a text: its tokens [start, stop), the blocks of the whole text, and of which of these
    tokens the logits are wanted, as positions in the text; of the last one if unset."""

    tokens: Sequence[int]
    start: int
    stop: int
    blocks: Sequence[int]
    wanted: Sequence[int] | None = None


def batch_of(*pieces: Piece, copies: Sequence[tuple[int, int]] = ()) -> Batch:
    lengths = np.array([piece.stop - piece.start for piece in pieces], np.int32)
    firsts = np.cumsum(lengths) - lengths
    tables = np.zeros((len(pieces), max(len(piece.blocks) for piece in pieces)), np.int32)
    for table, piece in zip(tables, pieces, strict=True):
        table[: len(piece.blocks)] = piece.blocks
    rows = [
        first + position - piece.start
        for first, piece in zip(firsts, pieces, strict=True)
        for position in (piece.wanted if piece.wanted is not None else [piece.stop - 1])
    ]
    return Batch(
        token_ids=np.concatenate([piece.tokens[piece.start : piece.stop] for piece in pieces]).astype(
            np.int32
        ),
        positions=np.concatenate([np.arange(p.start, p.stop, dtype=np.int32) for p in pieces]),
        query_lens=lengths,
        context_lens=np.array([piece.stop for piece in pieces], np.int32),
        block_tables=tables,
        copies=np.array(copies, np.int32).reshape(-1, 2),
        sampling=_greedy(rows),
    )


def logits(runner: Any, *pieces: Piece, copies: Sequence[tuple[int, int]] = ()) -> np.ndarray:
    """What a runner, native or torch, computes in one step: float32 [rows wanted, vocab_size]."""
    found = runner.logits(batch_of(*pieces, copies=copies))
    return found.copy() if isinstance(found, np.ndarray) else found.float().cpu().numpy()


def device_of(kernels: str | None) -> str:
    """Where a runner computes that has them, if it may be a CPU."""
    return GPU_OR_CPU if kernels == "triton" else "cpu"


def blocks_for(num_tokens: int) -> int:
    return -(-num_tokens // BLOCK_SIZE)


def _greedy(rows: Sequence[int]) -> SamplingBatch:
    count = len(rows)
    ints, floats = np.empty(0, np.int32), np.empty(0, np.float32)
    return SamplingBatch(
        rows=np.array(rows, np.int32),
        temperature=np.zeros(count, np.float32),
        top_k=np.zeros(count, np.int32),
        top_p=np.ones(count, np.float32),
        min_p=np.zeros(count, np.float32),
        seeds=np.zeros(count, np.uint64),
        draws=np.zeros(count, np.int64),
        repetition=np.ones(count, np.float32),
        frequency=np.zeros(count, np.float32),
        presence=np.zeros(count, np.float32),
        seen_rows=ints,
        seen_tokens=ints,
        seen_counts=floats,
        bias_rows=ints,
        bias_tokens=ints,
        bias_values=floats,
        logprobs=np.full(count, -1, np.int32),
        candidates=np.zeros(count, np.int32),
    )
