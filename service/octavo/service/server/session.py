"""One bidirectional stream: many requests, told apart by the client's ids."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from octavo.engine import EngineStopped, OctavoError
from octavo.service.rpc.boundary import Malformed
from octavo.service.rpc.refusals import within
from octavo.service.rpc.status import status_of
from octavo.service.rpc.turns import Turns, check_request_id, commands_until, no_command
from octavo.service.server.requests import resumption, submitting
from octavo.service.server.responses import delta_message
from octavo.service.server.turns import Turn, following_prompt
from octavo.service.telemetry.engine_spans import described
from octavo.service.telemetry.tracing import abandon, current, describe_request, fail_with
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from opentelemetry.trace import Span

    from octavo.service.server.backend import EngineBackend
    from octavo.service.telemetry.rpc import SessionDoor

log = logging.getLogger(__name__)


class Session:
    """Handles commands in their order; each request's output is pumped by a task of its own.

    Nothing is buffered here: a pump takes the next delta from the engine when gRPC has taken the last
    one. So if the client stops reading, the engine pauses the sequences of this session, and those of no
    other.
    """

    def __init__(
        self,
        backend: EngineBackend,
        write: Callable[[pb.SessionResponse], Awaitable[None]],
        door: SessionDoor,
    ) -> None:
        self._engine = backend.engine
        self._reader = backend.reader
        self._tracer = backend.tracer
        self._door = door
        self._write = write
        self._write_lock = asyncio.Lock()
        self._turns: Turns[Turn] = Turns()

    async def run(
        self, commands: AsyncIterator[pb.SessionRequest | Malformed], stopped: asyncio.Event
    ) -> None:
        """Serves until the client is done and every request has ended. EngineStopped if `stopped` is set."""
        try:
            async with asyncio.TaskGroup() as pumps:
                async for command in commands_until(stopped, commands):
                    await self._handle(command, pumps)
        finally:
            for turn in self._turns:
                turn.stream.cancel()
                turn.stream.release()
                abandon(turn.span)
        if stopped.is_set():
            raise EngineStopped("the server has stopped")

    async def _handle(self, command: pb.SessionRequest | Malformed, pumps: asyncio.TaskGroup) -> None:
        name = "" if isinstance(command, Malformed) else command.request_id
        try:
            if isinstance(command, Malformed):
                raise command.error
            check_request_id(name)
            kind = command.WhichOneof("command")
            match kind:
                case "submit":
                    with self._door.entered(command) as span:
                        self._turns.check_new(name)
                        with within(kind):
                            turn = await self._submit(span, command.submit)
                case "continuation":
                    with self._door.entered(command) as span:
                        self._turns.check_new(name)
                        with within(kind):
                            turn = await self._continue(span, command.continuation)
                case "cancel":
                    self._cancel(name)
                    return
                case _:
                    raise no_command()
        except Exception as error:
            rejected = _status_of(error, "a command of a session")
            await self._send(pb.SessionResponse(request_id=name, rejected=rejected))
        else:
            self._turns.add(name, turn)
            pumps.create_task(self._pump(name, turn))

    async def _submit(self, span: Span, submit: pb.Submit) -> Turn:
        self._reader.check_model(submit.model)
        describe_request(span, self._reader.served_name, submit)
        params, constraints = await self._reader.sampling(submit.sampling)
        prompt = await self._reader.prompt(submit.prompt)
        with submitting():
            stream = self._engine.submit(
                prompt.token_ids,
                params,
                priority=submit.priority,
                hold=submit.hold,
                resume=resumption(submit),
                constraints=constraints,
            )
        return Turn(span, stream, prompt.messages, submit.hold, params.echo)

    async def _continue(self, span: Span, continuation: pb.Continue) -> Turn:
        describe_request(span, self._reader.served_name, continuation)
        parent = self._turns.held(continuation.from_request_id)
        params, constraints = await self._reader.sampling(continuation.sampling)
        prompt = await following_prompt(self._reader, parent, continuation.prompt)
        self._turns.held(continuation.from_request_id)
        with submitting():
            stream = self._engine.submit(
                prompt.token_ids,
                params,
                priority=continuation.priority,
                hold=continuation.hold,
                continues=parent.stream,
                keep_parent=continuation.keep_parent,
                resume=resumption(continuation),
                constraints=constraints,
            )
        if not continuation.keep_parent:
            self._turns.forget(continuation.from_request_id, parent)
        return Turn(span, stream, prompt.messages, continuation.hold, params.echo)

    def _cancel(self, name: str) -> None:
        turn = self._turns.cancellable(name)
        turn.hold = False
        turn.stream.cancel()
        if not turn.running:
            turn.stream.release()
            self._turns.forget(name, turn)

    async def _pump(self, name: str, turn: Turn) -> None:
        with current(turn.span):
            with described(self._tracer, turn.span, turn.stream):
                last = await self._pass_on(name, turn)
            turn.span.end()  # before the client knows: it has not cancelled what has ended, if it leaves now
            await self._send(last)

    async def _pass_on(self, name: str, turn: Turn) -> pb.SessionResponse:
        """Sends all but the last event, which it returns. Then the client may use the id again."""
        accepted = pb.Accepted(prompt_tokens=len(turn.stream.prompt_token_ids))
        await self._send(pb.SessionResponse(request_id=name, accepted=accepted))
        while True:
            try:
                delta = await anext(turn.stream)
            except Exception as error:
                self._turns.forget(name, turn)
                failed = _status_of(error, "a request of a session")
                fail_with(turn.span, failed)
                return pb.SessionResponse(request_id=name, failed=failed)
            message = delta_message(delta, self._engine.tokenizer)
            response = pb.SessionResponse(request_id=name, delta=message)
            if turn.stream.finished:
                self._settle(name, turn)
                return response
            await self._send(response)

    def _settle(self, name: str, turn: Turn) -> None:
        if not turn.hold:
            turn.stream.release()
            self._turns.forget(name, turn)

    async def _send(self, response: pb.SessionResponse) -> None:
        async with self._write_lock:
            await self._write(response)


def _status_of(error: Exception, where: str) -> pb.Status:
    if not isinstance(error, OctavoError):
        log.error("unexpected error in %s", where, exc_info=error)
    return status_of(error)
