"""`Engine.Relay`: the requests of a gateway on one stream; what they bring together goes out together."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from octavo.engine import EngineStopped, InvalidRequest, OctavoError, Violation
from octavo.service.backend import Origin
from octavo.service.rpc.boundary import Malformed
from octavo.service.rpc.status import status_of
from octavo.service.rpc.wire import parse
from octavo.v1 import engine_pb2 as pb
from octavo.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from octavo.service.server.backend import EngineBackend
    from octavo.service.telemetry.rpc import RelayDoor

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Running:
    """One request: its task, and whether it may go on."""

    task: asyncio.Task[None]
    proceeds: asyncio.Event = field(default_factory=asyncio.Event)


class Relay:
    """One stream of a gateway. Each request has a task, and all tasks share a batch of events.

    A task takes its next delta when the batch with its last one has been written. So a batch holds what all
    requests have got since: after a step of the engine, a token of each.
    """

    def __init__(
        self,
        backend: EngineBackend,
        write: Callable[[pb.RelayResponse], Awaitable[None]],
        door: RelayDoor,
    ) -> None:
        self._backend = backend
        self._write = write
        self._door = door
        self._running: dict[int, Running] = {}
        self._events: list[pb.RelayEvent] = []
        self._news = asyncio.Event()
        self._written = asyncio.Event()

    async def run(self, commands: AsyncIterator[pb.RelayRequest | Malformed], stopped: asyncio.Event) -> None:
        """Serves until the gateway is gone. EngineStopped if `stopped` is set. InvalidRequest: no command."""
        try:
            async with asyncio.TaskGroup() as tasks:
                # One task reads all commands; with two for each, as a session has them, requests would wait.
                reading = tasks.create_task(self._read(commands, tasks))
                writing = tasks.create_task(self._write_batches())
                stopping = tasks.create_task(stopped.wait())
                try:
                    await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in (reading, writing, stopping, *(each.task for each in self._running.values())):
                        task.cancel()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        if stopped.is_set():
            raise EngineStopped("the server has stopped")

    async def _read(
        self, commands: AsyncIterator[pb.RelayRequest | Malformed], tasks: asyncio.TaskGroup
    ) -> None:
        async for command in commands:
            if isinstance(command, Malformed):
                raise command.error
            self._handle(command, tasks)

    def _handle(self, command: pb.RelayRequest, tasks: asyncio.TaskGroup) -> None:
        running = self._running.get(command.request_id)
        match command.WhichOneof("command"):
            case "generate":
                if running is not None:
                    rule = "must not be that of a running request"
                    raise InvalidRequest(Violation("request_id", command.request_id, rule))
                task = tasks.create_task(self._serve(command))
                self._running[command.request_id] = running = Running(task)
                running.proceeds.set()
                task.add_done_callback(lambda _: self._running.pop(command.request_id))
            case "cancel" if running is not None:
                running.task.cancel()
            case "pause" if running is not None:
                running.proceeds.clear()
            case "proceed" if running is not None:
                running.proceeds.set()
            case None:
                rule = "is required: one of generate, cancel, pause, proceed"
                raise InvalidRequest(Violation("command", None, rule))

    async def _serve(self, command: pb.RelayRequest) -> None:
        name = command.request_id
        try:
            with self._door.entered(command):
                await self._pass_on(name, parse(inference_pb2.GenerateRequest, command.generate))
        except OctavoError as error:
            self._tell(pb.RelayEvent(request_id=name, error=status_of(error)))
        except Exception as error:
            log.exception("unexpected error in a request of a gateway")
            self._tell(pb.RelayEvent(request_id=name, error=status_of(error)))

    async def _pass_on(self, name: int, request: inference_pb2.GenerateRequest) -> None:
        running = self._running[name]
        async with aclosing(self._backend.generate(request, Origin())) as deltas:
            async for delta in deltas:
                response = inference_pb2.GenerateResponse(delta=delta).SerializeToString()
                await self._tell(pb.RelayEvent(request_id=name, response=response)).wait()
                await running.proceeds.wait()

    def _tell(self, event: pb.RelayEvent) -> asyncio.Event:
        """Puts an event into the batch; what is returned is set once that is written."""
        self._events.append(event)
        self._news.set()
        return self._written

    async def _write_batches(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            events, self._events = self._events, []
            written, self._written = self._written, asyncio.Event()
            await self._write(pb.RelayResponse(events=events))
            written.set()
