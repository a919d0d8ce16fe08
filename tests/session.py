"""One session of many tasks: each submits requests and gets the events that are its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from octavo.v1 import inference_pb2 as pb


class Session:
    """The requests of one session, each with the events that are its own."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._writing = asyncio.Lock()
        self._events: dict[str, asyncio.Queue[pb.SessionResponse | Exception]] = {}
        self._reader = asyncio.create_task(self._read())

    async def submit(self, submit: pb.Submit) -> AsyncIterator[pb.SessionResponse]:
        name = f"request-{len(self._events)}"
        events = self._events[name] = asyncio.Queue()
        async with self._writing:
            await self._call.write(pb.SessionRequest(request_id=name, submit=submit))
        while True:
            event = await events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if event.WhichOneof("event") == "delta" and event.delta.finish_reason:
                return

    async def _read(self) -> None:
        end: Exception = ConnectionError("the session has ended")
        try:
            async for event in self._call:
                self._events[event.request_id].put_nowait(event)
        except grpc.aio.AioRpcError as error:
            end = error
        for events in self._events.values():
            events.put_nowait(end)
