"""The service `Engine`: what the gateway and the operator call."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc

from octavo.engine import EngineStopped, InvalidRequest, Violation
from octavo.service.rpc.boundary import writer
from octavo.service.rpc.intervals import interval_of
from octavo.service.server.responses import load_message
from octavo.v1 import engine_pb2 as pb
from octavo.v1.engine_pb2_grpc import EngineServicer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from octavo.engine.async_engine import AsyncEngine

Context = grpc.aio.ServicerContext[Any, Any]


class Engine(EngineServicer):
    """Tells one engine's load until `stopped` is set, and drains it by `drain(grace in seconds)`."""

    def __init__(
        self,
        engine: AsyncEngine,
        grace_period: float,
        drain: Callable[[float], Awaitable[None]],
        stopped: asyncio.Event,
    ) -> None:
        self.engine = engine
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
