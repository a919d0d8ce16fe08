"""Pods that are processes of their own, to be killed and stopped, and a gateway before them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from octavo.service.gateway.config import GatewayConfig
from octavo.service.gateway.server import Server
from octavo.service.gateway.sources import directory_of
from octavo.v1 import engine_pb2, gateway_pb2
from octavo.v1.engine_pb2_grpc import EngineStub
from octavo.v1.gateway_pb2_grpc import GatewayStub
from octavo.v1.inference_pb2_grpc import InferenceStub

SETTINGS = ("--dtype", "float32", "--threads", "1", "--kv-cache-memory", "8Mi", "--grace-period", "0.5")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class PodProcess:
    """`octavo serve` on a port of its own, which it has again when it is started anew."""

    def __init__(self, model: Path, *settings: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._model = model
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        port = self.address.rpartition(":")[2]
        command = [sys.executable, "-m", "octavo.service.cli", "serve", str(self._model), "--port", port]
        self._process = subprocess.Popen([*command, *SETTINGS, *self._settings], stderr=subprocess.DEVNULL)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def ranks(self) -> list[int]:
        """The processes of its ranks but the first."""
        assert self._process is not None
        pid = self._process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    async def exit_code(self) -> int:
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, 20)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def load(self) -> engine_pb2.Load:
        """Its load, once it answers."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            watch = EngineStub(channel).WatchLoad(engine_pb2.WatchLoadRequest(), wait_for_ready=True)
            response = await asyncio.wait_for(watch.read(), 60)
            watch.cancel()
            return response.load  # type: ignore[no-any-return]

    async def loads(self) -> AsyncIterator[engine_pb2.Load]:
        """Its load, again and again."""
        request = engine_pb2.WatchLoadRequest(interval=Duration(nanos=20_000_000))
        async with grpc.aio.insecure_channel(self.address) as channel:
            async for response in EngineStub(channel).WatchLoad(request, wait_for_ready=True):
                yield response.load

    async def until_idle(self) -> None:
        async with asyncio.timeout(20):
            while (load := await self.load()).held_blocks or load.running or load.waiting:
                await asyncio.sleep(0.05)


@dataclass(frozen=True)
class Gateway:
    """A gateway in this process, and stubs on a channel to it."""

    server: Server
    http: str
    inference: Any
    view: Any


@asynccontextmanager
async def gateway(addresses: Sequence[str], **settings: Any) -> AsyncIterator[Gateway]:
    settings = {"port": 0, "http_port": 0, "hang_timeout": 1.5, "patience": 5.0} | settings
    config = GatewayConfig(pods=tuple(f"tiny={address}" for address in addresses), **settings)
    async with directory_of(config) as directory:
        server = Server(config)
        await server.start(directory)
        async with grpc.aio.insecure_channel(server.address) as channel:
            assert server.http_url is not None
            yield Gateway(server, server.http_url, InferenceStub(channel), GatewayStub(channel))
        with contextlib.suppress(TimeoutError):
            await server.stop()


async def until_serving(door: Gateway, count: int) -> None:
    serving = gateway_pb2.POD_STATE_SERVING
    await until(door, lambda model: sum(pod.state == serving for pod in model.pods) == count)


async def until(door: Gateway, holds: Any) -> None:
    """Waits until what the gateway tells of its only model is so."""
    async with asyncio.timeout(60):
        async for response in door.view.WatchPods(gateway_pb2.WatchPodsRequest()):
            if response.models and holds(response.models[0]):
                return
