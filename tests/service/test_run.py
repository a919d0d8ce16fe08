"""The life of a server inside its process: signals, and an engine that fails."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Iterator

import grpc
import pytest

from octavo.engine import EngineConfig, EngineStopped
from octavo.engine.engine import Engine
from octavo.service.config import ServerConfig
from octavo.service.server.run import serve
from octavo.v1 import inference_pb2 as pb
from octavo.v1.inference_pb2_grpc import InferenceStub
from tests.conftest import TinyModel
from tests.service.conftest import ENDLESS, as_prompt, collect


@pytest.fixture
def signals() -> Iterator[None]:
    """Gives the test's process back its own handling of signals."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def started(tiny_model: TinyModel, caplog: pytest.LogCaptureFixture) -> tuple[asyncio.Task[None], str]:
    """A server's life as a task, and its address."""
    caplog.set_level(logging.INFO, "octavo")
    config = EngineConfig(model=str(tiny_model("llama")), kv_cache_memory="4Mi", threads=1)
    life = asyncio.create_task(serve(config, ServerConfig(port=0, served_name="tiny"), time.monotonic()))
    async with asyncio.timeout(30):
        while not caplog.messages:
            await asyncio.sleep(0.01)
    said = caplog.messages[0]
    assert " s: tiny on 127.0.0.1:" in said
    return life, said.partition(" on ")[2].partition(" ")[0]


@pytest.mark.usefixtures("signals")
async def test_a_signal_ends_it(tiny_model: TinyModel, caplog: pytest.LogCaptureFixture) -> None:
    life, _ = await started(tiny_model, caplog)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(life, 10)
    assert caplog.messages[1].startswith("SIGTERM: draining")
    assert caplog.messages[2] == "stopped"


@pytest.mark.usefixtures("signals")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_failed_engine_ends_its_requests_and_the_server(
    tiny_model: TinyModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    life, address = await started(tiny_model, caplog)

    def fail(_: Engine) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Engine, "step", fail)
    async with grpc.aio.insecure_channel(address) as channel:
        request = pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=ENDLESS)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await collect(InferenceStub(channel).Generate(request))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    with pytest.raises(EngineStopped, match="failed"):
        await asyncio.wait_for(life, 10)
