"""`octavo serve` on two ranks, of which one is lost in the middle of an answer."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from octavo.v1 import inference_pb2 as pb
from octavo.v1.inference_pb2_grpc import InferenceStub
from tests.conftest import TinyModel
from tests.service.conftest import ENDLESS
from tests.service.test_serve import Process, served

NOTICED = 5.0
"""Seconds in which everybody who waits must be told."""


@contextmanager
def answering(
    tiny_model: TinyModel, runner: str = "torch"
) -> Iterator[tuple[Process, int, Iterator[pb.GenerateResponse]]]:
    """A server on two ranks in the middle of a long answer, the process of rank 1, and the answer."""
    model = str(tiny_model("llama", max_position_embeddings=65536))
    settings = ("--kv-cache-memory", "16Mi", "--device", "cpu", "--runner", runner)
    with (
        served(model, *settings, "--tensor-parallel-size", "2") as octavo,
        grpc.insecure_channel(octavo.address) as channel,
    ):
        request = pb.GenerateRequest(prompt=pb.Prompt(text="Hello"), sampling=ENDLESS)
        responses = InferenceStub(channel).Generate(request)
        next(responses)
        pid = octavo.process.pid
        [rank] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        yield octavo, int(rank), responses


def until_gone(process_id: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{process_id}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("runner", ["torch", "native"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_requests_end_with_unavailable_health_says_so_and_the_process_fails(
    tiny_model: TinyModel, how: signal.Signals, runner: str
) -> None:
    with answering(tiny_model, runner) as (octavo, rank, responses):
        with grpc.insecure_channel(octavo.address) as channel:
            health = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(service="octavo.v1.Inference")
            )
            assert next(health).status == health_pb2.HealthCheckResponse.SERVING
            healths: list[tuple[int, float]] = []
            watching = threading.Thread(
                target=lambda: healths.append((next(health).status, time.monotonic()))
            )
            watching.start()
            os.kill(rank, how)
            began = time.monotonic()
            with pytest.raises(grpc.RpcError) as caught:
                list(responses)
            assert time.monotonic() - began < NOTICED
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            watching.join()
            [(status, when)] = healths
            assert status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert when - began < NOTICED
        assert octavo.end() == 1
        until_gone(rank, 1)
    reason = "was ended by SIGKILL" if how is signal.SIGKILL else "has said nothing for 3 s"
    assert any(f"rank 1 {reason}" in line for line in octavo.lines), octavo.lines


def test_ranks_end_when_rank_0_is_killed(tiny_model: TinyModel) -> None:
    with answering(tiny_model) as (octavo, rank, _):
        octavo.process.kill()
        until_gone(rank, NOTICED)


def test_a_signal_drains_it_as_any_server(tiny_model: TinyModel) -> None:
    """Also if a terminal's Ctrl-C reaches the ranks, too."""
    with answering(tiny_model) as (octavo, rank, responses):
        os.kill(rank, signal.SIGINT)
        octavo.process.send_signal(signal.SIGINT)
        next(responses)
        responses.cancel()  # type: ignore[attr-defined]
        assert octavo.end() == 0
        until_gone(rank, 1)
