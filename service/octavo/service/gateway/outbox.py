"""What a gateway says to a pod on a stream that several requests share."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from google.protobuf.message import Message


class Outbox:
    """Writes one message after another, each in a task of its own.

    So a write goes on when the request that it is for is cancelled: gRPC would end the call, and with it the
    requests of all others. If the stream has broken, nothing happens: its reader finds out.

    No write outlasts its call. Left to gRPC, one that waits for the call to begin would wait for ever when
    that is cancelled before.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._lock = asyncio.Lock()
        self._writes: set[asyncio.Task[None]] = set()
        call.add_done_callback(self._give_up)

    async def send(self, message: Message) -> None:
        """Until it is on its way, or the stream has ended."""
        write = self.post(message)
        await asyncio.wait({write})
        if not write.cancelled():
            write.result()

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
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self._call.write(message)

    def _give_up(self, _: Any) -> None:
        for write in self._writes:
            write.cancel()
