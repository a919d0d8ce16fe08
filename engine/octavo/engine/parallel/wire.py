"""What rank 0 says to the others and they to it: frames of a kind and bytes, over a socket for each.

A batch goes as the integers that it is; settings, which go once, as JSON. Nothing is unpickled.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from octavo.engine.batch import Batch, SamplingBatch

if TYPE_CHECKING:
    import socket

    from octavo.engine.batch import Ints

FRAME = struct.Struct("<BQ")
"""Kind and number of bytes that follow."""
NUM_SIZES = 5


class Order(IntEnum):
    """Of rank 0 to the others."""

    LOAD = 1
    """JSON. Answered."""
    ALLOCATE = 2
    """int64, the number of blocks. Answered."""
    RUN = 3
    """A batch. Not answered: the ranks meet in the middle of it."""


class Answer(IntEnum):
    """Of the others to rank 0."""

    DONE = 1
    """JSON, of what was asked."""
    REFUSED = 2
    """JSON: `kind`, the name of an error, and its `message`."""


def send(connection: socket.socket, kind: int, content: bytes = b"") -> None:
    connection.sendall(FRAME.pack(kind, len(content)) + content)


def receive(connection: socket.socket) -> tuple[int, bytes]:
    """Raises EOFError where the other side is gone."""
    kind, length = FRAME.unpack(_exactly(connection, FRAME.size))
    return kind, _exactly(connection, length)


def _exactly(connection: socket.socket, count: int) -> bytes:
    content = bytearray(count)
    view = memoryview(content)
    while len(view):
        num_read = connection.recv_into(view)
        if not num_read:
            raise EOFError
        view = view[num_read:]
    return bytes(content)


def encode(batch: Batch) -> bytes:
    """What a forward pass needs of a batch, int32: sizes, then the arrays end to end.

    How tokens are chosen is not among it: rank 0 has all logits, and chooses alone.
    """
    rows = np.concatenate([batch.sampling.rows, batch.scoring.rows])
    num_seqs, width = batch.block_tables.shape
    arrays = (
        np.array([len(batch.token_ids), num_seqs, width, len(batch.copies), len(rows)], np.int32),
        *(batch.token_ids, batch.positions, batch.query_lens, batch.context_lens),
        *(batch.block_tables, batch.copies, rows),
    )
    return b"".join(array.tobytes() for array in arrays)


def decode(content: bytes) -> Batch:
    """A batch of which only the forward pass can be computed."""
    values = np.frombuffer(content, np.int32)
    num_tokens, num_seqs, width, num_copies, num_rows = values[:NUM_SIZES].tolist()
    lengths = (num_tokens, num_tokens, num_seqs, num_seqs, num_seqs * width, 2 * num_copies, num_rows)
    ends = np.cumsum((NUM_SIZES, *lengths))
    token_ids, positions, query_lens, context_lens, tables, copies, rows = (
        values[start:end] for start, end in pairwise(ends)
    )
    return Batch(
        token_ids=token_ids,
        positions=positions,
        query_lens=query_lens,
        context_lens=context_lens,
        block_tables=tables.reshape(num_seqs, width),
        copies=copies.reshape(num_copies, 2),
        sampling=_of_rows(rows),
    )


def _of_rows(rows: Ints) -> SamplingBatch:
    """Rows whose logits are wanted, and nothing more."""
    count = len(rows)
    ints, zeros, ones = np.zeros(count, np.int32), np.zeros(count, np.float32), np.ones(count, np.float32)
    return SamplingBatch(
        rows=rows,
        temperature=zeros,
        top_k=ints,
        top_p=ones,
        min_p=zeros,
        seeds=ints.astype(np.uint64),
        draws=ints.astype(np.int64),
        repetition=ones,
        frequency=zeros,
        presence=zeros,
        seen_rows=ints[:0],
        seen_tokens=ints[:0],
        seen_counts=zeros[:0],
        bias_rows=ints[:0],
        bias_tokens=ints[:0],
        bias_values=zeros[:0],
        logprobs=ints - 1,
        candidates=ints,
    )
