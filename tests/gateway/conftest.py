"""Gateways in front of pods: one in this process, for behaviour; real processes, for what happens to them."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from octavo.engine.async_engine import AsyncEngine
from octavo.service.config import ServerConfig
from octavo.service.gateway.config import GatewayConfig
from octavo.service.gateway.server import Server as Gateway
from octavo.service.gateway.sources import directory_of
from octavo.service.server.server import Server
from octavo.v1.engine_pb2_grpc import EngineStub
from octavo.v1.inference_pb2_grpc import InferenceStub
from tests.conftest import TinyModel
from tests.gateway.fleet import until_serving
from tests.gateway.processes import PodProcess
from tests.service.conftest import Serving, World, small_engine


@pytest.fixture
async def serving(tiny_model: TinyModel) -> AsyncIterator[Serving]:
    """As in tests/service, but clients reach the pod through a gateway; both are in this process."""
    async with AsyncExitStack() as stack:

        async def start(context: int = 32768, **settings: Any) -> World:
            of_server = {
                name: settings.pop(name) for name in list(settings) if name in ServerConfig.__slots__
            }
            model = tiny_model("llama", max_position_embeddings=context)
            pod = Server(ServerConfig(**of_server), "127.0.0.1:0")
            engine = AsyncEngine.load_model(small_engine(model, **settings))
            await pod.start(engine)
            stack.push_async_callback(pod.stop)
            size = of_server.get("max_message_size", 4 * 2**20)
            of_gateway = GatewayConfig(pods=(pod.address,), port=0, http=False, max_message_size=size)
            directory = await stack.enter_async_context(directory_of(of_gateway))
            gateway = Gateway(of_gateway)
            await gateway.start(directory)
            stack.push_async_callback(gateway.stop)
            await until_serving(directory, 1)
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(gateway.address))
            to_pod = await stack.enter_async_context(grpc.aio.insecure_channel(pod.address))
            server: Any = gateway
            return World(engine, server, channel, InferenceStub(channel), EngineStub(to_pod))

        yield start


@pytest.fixture
async def world(serving: Serving) -> World:
    return await serving()


@pytest.fixture(scope="package")
def pods(tiny_model: TinyModel) -> Iterator[list[PodProcess]]:
    model = tiny_model("llama", max_position_embeddings=1024)
    started = [PodProcess(model) for _ in range(3)]
    for pod in started:
        pod.start()
    yield started
    for pod in started:
        pod.end()


@pytest.fixture
async def fleet(pods: list[PodProcess]) -> list[PodProcess]:
    """Three pods that serve and are idle, whatever the test before did to them."""
    for pod in pods:
        if pod.running:
            pod.send(signal.SIGCONT)
        else:
            pod.start()
    for pod in pods:
        await pod.until_idle()
    return pods
