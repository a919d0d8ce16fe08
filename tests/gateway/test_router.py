"""What a router makes of the parameters of a request."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.service.gateway.directory import Directory
from octavo.service.gateway.endpoints.static import StaticSource
from octavo.service.gateway.router import Router, num_sequences
from octavo.v1 import inference_pb2 as pb


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({}, 1),
        ({"n": 3}, 3),
        ({"n": 2, "best_of": 5}, 5),
        ({"n": 2, "beam_width": 4}, 4),
        ({"n": -1}, 1),
        ({"n": 2**31 - 1}, 128),
    ],
)
def test_a_request_is_computed_as_many_sequences(sampling: dict[str, int], expected: int) -> None:
    assert num_sequences(pb.SamplingParams(**sampling)) == expected


@pytest.mark.parametrize(
    ("sampling", "gets_one"),
    [({}, True), ({"best_of": 2}, True), ({"seed": 0}, False), ({"beam_width": 2}, False)],
)
async def test_a_seed_is_chosen_where_one_is_drawn_by(sampling: dict[str, Any], gets_one: bool) -> None:
    message = pb.SamplingParams(**sampling)
    Router(Directory(StaticSource(["tiny=127.0.0.1:1"]))).fix_seed(message)
    assert message.HasField("seed") == (gets_one or "seed" in sampling)
    assert gets_one or message == pb.SamplingParams(**sampling)
