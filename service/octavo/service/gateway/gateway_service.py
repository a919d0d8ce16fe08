"""The service `Gateway`: the pods as this gateway sees them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

from octavo.engine import EngineStopped
from octavo.service.rpc.boundary import writer
from octavo.service.rpc.intervals import interval_of
from octavo.v1 import gateway_pb2 as pb
from octavo.v1.gateway_pb2_grpc import GatewayServicer

if TYPE_CHECKING:
    import grpc

    from octavo.service.gateway.directory import Directory


class Gateway(GatewayServicer):
    """Tells until `stopped` is set."""

    def __init__(self, directory: Directory, stopped: asyncio.Event) -> None:
        self.directory = directory
        self.stopped = stopped
        self.name = socket.gethostname()

    async def WatchPods(
        self, request: pb.WatchPodsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        interval = interval_of(request)
        write = writer(context)
        while not self.stopped.is_set():
            models = [pool.snapshot() for pool in self.directory.pools()]
            await write(pb.WatchPodsResponse(models=models, gateway=self.name))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), interval)
        raise EngineStopped("the gateway has stopped")
