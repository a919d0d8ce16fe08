"""What a gateway says to a pod on a stream that several requests share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from octavo.service.gateway.upstream import was_lost

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from octavo.service.gateway.pool import Pick


class Outbox:
    """Writes one message after another, each in a task of its own.

    So a write goes on when the request that it is for is cancelled: gRPC would end the call, and with it the
    requests of all others. If the stream has broken, nothing happens: its reader finds out.
    """

    def __init__(self, call: Any, pick: Pick) -> None:
        self._call = call
        self._pick = pick
        self._lock = asyncio.Lock()
        self._writes: set[asyncio.Task[None]] = set()

    async def send(self, message: Message) -> None:
        """Until it is on its way."""
        await asyncio.shield(self.post(message))

    def post(self, message: Message) -> asyncio.Task[None]:
        task = asyncio.create_task(self._write(message))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return task

    async def done(self) -> None:
        """Until nothing is being written any longer."""
        await asyncio.gather(*self._writes, return_exceptions=True)

    async def _write(self, message: Message) -> None:
        async with self._lock:
            try:
                await self._call.write(message)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return
            except asyncio.CancelledError:
                if not was_lost(self._pick):
                    raise
