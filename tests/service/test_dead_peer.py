"""A peer that vanishes without a word: its machine is off, or the network is cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from octavo.service.config import ServerConfig
from octavo.service.server import server
from octavo.v1 import inference_pb2 as pb
from octavo.v1.inference_pb2_grpc import InferenceStub
from tests.service.conftest import ENDLESS, Serving, as_prompt


async def test_a_dead_peer_is_noticed_by_keepalive(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = server.options

    def impatient(config: ServerConfig) -> list[tuple[str, int]]:
        quicker = {"grpc.keepalive_time_ms": 300, "grpc.http2.ping_timeout_ms": 300}
        return [(name, quicker.get(name, value)) for name, value in patient(config)]

    monkeypatch.setattr(server, "options", impatient)
    world = await serving(stream_buffer=8)
    cut = asyncio.Event()
    async with network(world.address, cut) as address:
        channel = grpc.aio.insecure_channel(address)
        call = InferenceStub(channel).Generate(
            pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=ENDLESS)
        )
        await call.read()
        assert world.engine.load().running == 1
        cut.set()
        await world.until_idle(3)
        await channel.close()


@asynccontextmanager
async def network(target: str, cut: asyncio.Event) -> AsyncIterator[str]:
    """A way to the target that carries bytes until `cut` is set; then connections are open, but silent."""
    host, _, port = target.rpartition(":")
    tasks: set[asyncio.Task[None]] = set()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_target = await asyncio.open_connection(host, int(port))
        for source, sink in ((reader, to_target[1]), (to_target[0], writer)):
            tasks.add(asyncio.create_task(carry(source, sink)))

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            if not cut.is_set():
                sink.write(data)
                await sink.drain()

    listener = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield "{}:{}".format(*listener.sockets[0].getsockname())
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
