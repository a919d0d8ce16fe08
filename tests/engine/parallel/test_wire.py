"""A batch arrives as it was sent, for all that a forward pass needs."""

from __future__ import annotations

import dataclasses
import socket
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from octavo.engine.batch import Batch, ScoringBatch
from octavo.engine.parallel.wire import Order, decode, encode, receive, send

from ..runners.steps import Piece, batch_of

INTS = st.integers(-(2**31), 2**31 - 1)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    num_tokens, num_seqs, width, num_copies, num_scored = (draw(st.integers(0, 6)) for _ in range(5))

    def ints(*shape: int) -> np.ndarray:
        return draw(arrays(np.int32, shape, elements=INTS))

    some = batch_of(Piece([1, 2, 3], 0, 3, [0]))
    return Batch(
        token_ids=ints(num_tokens),
        positions=ints(num_tokens),
        query_lens=ints(num_seqs),
        context_lens=ints(num_seqs),
        block_tables=ints(num_seqs, width),
        copies=ints(num_copies, 2),
        sampling=some.sampling,
        scoring=ScoringBatch(rows=ints(num_scored), targets=ints(num_scored)),
    )


@given(batches())
def test_what_is_decoded_is_what_was_encoded(batch: Batch) -> None:
    found = decode(encode(batch))
    for field in dataclasses.fields(Batch)[:6]:
        sent, got = getattr(batch, field.name), getattr(found, field.name)
        assert got.dtype == sent.dtype
        np.testing.assert_array_equal(got, sent)
    rows = np.concatenate([batch.sampling.rows, batch.scoring.rows])
    np.testing.assert_array_equal(found.sampling.rows, rows)


def test_frames_of_any_length_arrive_whole() -> None:
    here, there = socket.socketpair()
    contents = [b"", b"x", bytes(3_000_000)]
    with here, there:
        sender = threading.Thread(target=lambda: [send(here, Order.RUN, content) for content in contents])
        sender.start()
        assert [receive(there) for _ in contents] == [(Order.RUN, content) for content in contents]
        sender.join()


def test_the_end_of_the_other_side_is_told() -> None:
    here, there = socket.socketpair()
    with there:
        here.close()
        with pytest.raises(EOFError):
            receive(there)
