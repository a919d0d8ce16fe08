"""The service `Engine`: what the gateway and the operator call."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc

from octavo.engine import EngineStopped, InvalidRequest, Violation
from octavo.service.rpc.boundary import shared_writer, writer
from octavo.service.rpc.intervals import interval_of
from octavo.service.server.relay import Relay
from octavo.service.server.responses import load_message
from octavo.service.telemetry.rpc import RelayDoor
from octavo.v1 import engine_pb2 as pb
from octavo.v1.engine_pb2_grpc import EngineServicer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from octavo.service.rpc.boundary import Malformed
    from octavo.service.server.backend import EngineBackend

Context = grpc.aio.ServicerContext[Any, Any]


class Engine(EngineServicer):
    """Tells one engine's load until `stopped` is set, and drains it by `drain(grace in seconds)`."""

    def __init__(
        self,
        backend: EngineBackend,
        grace_period: float,
        drain: Callable[[float], Awaitable[None]],
        stopped: asyncio.Event,
    ) -> None:
        self.backend = backend
        self.engine = backend.engine
        self.grace_period = grace_period
        self.drain = drain
        self.stopped = stopped

    async def WatchLoad(self, request: pb.WatchLoadRequest, context: Context) -> None:
        interval = interval_of(request)
        write = writer(context)
        while not self.stopped.is_set():
            await write(pb.WatchLoadResponse(load=load_message(self.engine.load())))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), interval)
        raise EngineStopped("the server has stopped")

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        grace = self.grace_period
        if request.HasField("grace_period"):
            grace = request.grace_period.ToTimedelta().total_seconds()
            if grace < 0:
                raise InvalidRequest(Violation("grace_period", f"{grace:g} s", "must not be negative"))
        await self.drain(grace)
        return pb.DrainResponse()

    async def Relay(self, commands: AsyncIterator[pb.RelayRequest | Malformed], context: Context) -> None:
        relay = Relay(self.backend, await shared_writer(context), RelayDoor(self.backend.tracer, context))
        await relay.run(commands, self.stopped)
