"""A pod of two ranks loses one under its streams: the gateway moves them to another pod."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from tests.conftest import TinyModel
from tests.gateway.processes import PodProcess, gateway, until_serving
from tests.gateway.test_processes import Streams


@pytest.fixture
def pods(tiny_model: TinyModel) -> Iterator[list[PodProcess]]:
    """One of two ranks, one of one."""
    model = tiny_model("llama", max_position_embeddings=1024)
    ranks = ("--device", "cpu", "--runner", "torch", "--tensor-parallel-size", "2")
    started = [PodProcess(model, *ranks), PodProcess(model)]
    for pod in started:
        pod.start()
    yield started
    for pod in started:
        pod.end()


async def test_a_lost_rank_costs_no_request(pods: list[PodProcess]) -> None:
    async with gateway([pod.address for pod in pods]) as door:
        await until_serving(door, 2)
        async with asyncio.timeout(30), aclosing(pods[0].loads()) as loads:
            await anext(loads)
            streams = Streams(door)
            async for load in loads:
                if load.running and load.total_output_tokens:
                    break
        [rank] = pods[0].ranks
        os.kill(rank, signal.SIGKILL)
        outputs = await streams.outputs()
        assert all(reason == "length" and text for text, reason in outputs)
        assert await pods[0].exit_code() == 1
        await pods[1].until_idle()
