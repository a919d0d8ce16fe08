"""A client's session, whose requests are spread over pods and move when one is lost."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from google.rpc import code_pb2

from octavo.engine import EngineStopped, OctavoError, Violation
from octavo.service.gateway.picker import Query
from octavo.service.gateway.progress import Progress
from octavo.service.gateway.router import num_sequences
from octavo.service.gateway.session_turn import Turn
from octavo.service.gateway.session_upstream import Upstream
from octavo.service.gateway.upstream import LOST, Left, Trouble, trouble_of
from octavo.service.rpc.boundary import Malformed
from octavo.service.rpc.refusals import NotHeld, Relayed, within
from octavo.service.rpc.status import status_of
from octavo.service.rpc.turns import Turns, check_request_id, commands_until, no_command, unknown_request
from octavo.service.telemetry.context import to_command
from octavo.service.telemetry.tracing import abandon
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from octavo.service.gateway.pool import Pick
    from octavo.service.gateway.router import Router
    from octavo.service.telemetry.rpc import SessionDoor

log = logging.getLogger(__name__)


class Session:
    """Handles commands in their order, as a pod's own session does, and tells what the pods tell.

    There is one stream to each pod that has something of this session. Nothing is buffered: the next event
    is read from it when the client has taken the last one, so a client that stops reading pauses its own
    requests and no others.
    """

    def __init__(
        self,
        router: Router,
        write: Callable[[pb.SessionResponse], Awaitable[None]],
        session: str,
        metadata: list[tuple[str, str]],
        door: SessionDoor,
    ) -> None:
        """session: what affinity goes by. metadata: for the pods. door: makes each request's span."""
        self._door = door
        self._router = router
        self._write = write
        self._session = session
        self._metadata = metadata
        self._writing = asyncio.Lock()
        self._turns: Turns[Turn] = Turns()
        self._upstreams: dict[str, Upstream] = {}
        self._running: set[Turn] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    async def run(
        self, commands: AsyncIterator[pb.SessionRequest | Malformed], stopped: asyncio.Event
    ) -> None:
        """Serves until the client is done and every request has ended. EngineStopped if `stopped` is set."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                async for command in commands_until(stopped, commands):
                    await self._handle(command)
                await _first_of(self._idle, stopped)
                self._close()
        finally:
            self._close()
            for turn in self._running:
                turn.give_back()
                turn.passage.abandoned()
                abandon(turn.passage.door)
                self._router.ended()
        if stopped.is_set():
            raise EngineStopped("the gateway has stopped")

    def _close(self) -> None:
        """Ends all that runs or is held."""
        self._closed = True
        for upstream in self._upstreams.values():
            upstream.close()
        for turn in self._running:
            if turn.task is not None:
                turn.task.cancel()

    async def _handle(self, command: pb.SessionRequest | Malformed) -> None:
        name = "" if isinstance(command, Malformed) else command.request_id
        try:
            if isinstance(command, Malformed):
                raise command.error
            check_request_id(name)
            kind = command.WhichOneof("command")
            match kind:
                case "submit":
                    with self._door.entered(command):
                        await self._check_new(name)
                        with within(kind):
                            turn = self._turn(command, command.submit, None)
                case "continuation":
                    with self._door.entered(command):
                        await self._check_new(name)
                        with within(kind):
                            parent = await self._parent(command.continuation)
                            turn = self._turn(command, command.continuation, parent)
                case "cancel":
                    return await self._cancel(name)
                case _:
                    raise no_command()
        except Exception as error:
            await self._reject(name, _status_of(error, "a command of a session"))
        else:
            await self._begin(turn)

    async def _check_new(self, name: str) -> None:
        undecided = self._turns.get(name)
        if undecided is not None and undecided.home is not None:
            await undecided.decided.wait()
        self._turns.check_new(name)

    async def _parent(self, continuation: pb.Continue) -> Turn:
        name = continuation.from_request_id
        successor = self._turns.held(name).successor
        if successor is not None and not successor.decided.is_set():
            if successor.home is None:
                rule = f"must be of a request that no other goes on from; {successor.name!r} waits for a pod"
                raise NotHeld(Violation("from_request_id", name, rule))
            await successor.decided.wait()  # if it is refused, its parent is still held
        return self._turns.held(name)

    # How a request begins, and begins again.

    def _turn(
        self, request: pb.SessionRequest, command: pb.Submit | pb.Continue, parent: Turn | None
    ) -> Turn:
        """A new request. UnknownModel, or Unavailable while the gateway drains."""
        if isinstance(command, pb.Continue):
            assert parent is not None
            pool = parent.pool
        else:
            pool = self._router.directory.pool(command.model)
            command.model = ""  # a pod may know its model by another name
        self._router.began()
        self._router.fix_seed(command.sampling)
        progress = Progress(command)
        passage = self._router.telemetry.passage(pool.model, command)
        turn = Turn(request.request_id, command, parent, pool, progress, passage, command.hold)
        query = Query(
            session=self._session,
            prompt_tokens=turn.all_tokens,
            sequences=num_sequences(command.sampling),
        )
        turn.placement = self._router.placement(pool, query, passage)
        return turn

    async def _begin(self, turn: Turn) -> None:
        self._turns.add(turn.name, turn)
        self._running.add(turn)
        self._idle.clear()
        parent = turn.parent
        if parent is not None and not turn.keep_parent:
            parent.successor = turn
        pick = self._at_parents_pod(turn)
        there = pick is not None or parent is None
        pick = pick or await turn.placement.first_now()
        if pick is None or not there:
            self._look_for_a_pod(turn, pick)
            return
        # At once, so that the pod gets commands in the order in which the client gave them.
        try:
            await self._bring(turn, pick)
        except Left as left:
            self._look_for_a_pod(turn, trouble=left.trouble)
        except Relayed as error:  # of what it goes on from, which another turn has moved meanwhile
            await self._end(turn, _status_of(error, "a request of a session"))

    def _at_parents_pod(self, turn: Turn) -> Pick | None:
        if turn.parent is None or turn.parent.home is None or not turn.parent.home.open:
            return None
        query = Query(prompt_tokens=turn.new_tokens, sequences=num_sequences(turn.command.sampling))
        pick = turn.pool.take(turn.parent.home.pod, query)
        if pick is not None:
            turn.passage.picked(pick)
        return pick

    def _look_for_a_pod(self, turn: Turn, pick: Pick | None = None, trouble: Trouble | None = None) -> None:
        turn.task = self._tasks.create_task(self._place(turn, pick, trouble))

    async def _place(self, turn: Turn, pick: Pick | None, trouble: Trouble | None) -> None:
        """Brings a turn to a pod, or ends it if none can serve it.

        pick: where to begin, if that is known. trouble: why it has left its last pod, if it has.
        """
        try:
            pick = pick or await self._another(turn, trouble)
            while True:
                try:
                    return await self._bring(turn, pick)
                except Left as left:
                    pick = await self._another(turn, left.trouble)
        except asyncio.CancelledError:
            if not turn.cancelled:
                raise
            await self._end_cancelled(turn)
        except Exception as error:
            await self._end(turn, _status_of(error, "a request of a session"))

    async def _another(self, turn: Turn, trouble: Trouble | None) -> Pick:
        if trouble is None:
            return await turn.placement.first()
        turn.leave(failed=trouble.failed)
        turn.passage.leaves(trouble.reason, trouble.status)
        log.info("after %d tokens a request leaves %s: %s", turn.num_told, turn.address, trouble)
        progress = turn.num_told > turn.told_before
        return await turn.placement.next(turn.address, trouble, progress=progress, begun=turn.accepted)

    async def _bring(self, turn: Turn, pick: Pick) -> None:
        """Begins a turn on a pod, or lets it go on there, beside what it goes on from. Left, Relayed."""
        turn.pick, turn.address, turn.told_before = pick, pick.pod.address, turn.num_told
        turn.trace = to_command(turn.passage.arrives(turn.address, turn.num_told))
        turn.progress.moves()
        upstream = self._upstream(pick)
        parent = turn.parent
        if parent is None:
            await self._start(turn, upstream, "")
            return
        async with parent.moving:
            if parent.home is not upstream:
                key = await upstream.hold(parent)
                await _release(parent)
                parent.home, parent.key = upstream, key
                upstream.turns[key] = parent
            await self._start(turn, upstream, parent.key)

    async def _start(self, turn: Turn, upstream: Upstream, parent_key: str) -> None:
        if not upstream.open:
            raise Left(LOST)
        parent = turn.parent
        turn.kept_parent = parent is not None and turn.keep_parent and self._turns.get(parent.name) is parent
        turn.home, turn.key = upstream, upstream.new_key()
        upstream.turns[turn.key] = turn
        await upstream.send(turn.request(turn.key, parent_key, keep_parent=turn.kept_parent))

    def _upstream(self, pick: Pick) -> Upstream:
        """The stream to a pod, opened if there is none. Left."""
        upstream = self._upstreams.get(pick.pod.address)
        if upstream is None or not upstream.open:
            upstream = Upstream(pick, self._deliver, self._leave_all, self._metadata)
            self._upstreams[pick.pod.address] = upstream
            self._tasks.create_task(upstream.run())
        return upstream

    # What pods tell.

    async def _deliver(self, turn: Turn, event: pb.SessionResponse) -> None:
        match event.WhichOneof("event"):
            case "accepted":
                self._accept(turn)
                if turn.accepted:
                    return  # by its first pod, as the client knows
                turn.accepted = True
                turn.usage = pb.Usage(prompt_tokens=event.accepted.prompt_tokens)
                turn.decided.set()
            case "delta":
                delta = event.delta
                if not turn.progress.begun:
                    turn.passage.first_output()
                if not turn.progress.take(delta):
                    return
                turn.usage = delta.usage
                if turn.progress.ended:
                    # Before the client knows: it may use the id again at once.
                    self._settle(turn, delta.finish_reason)
            case "rejected" | "failed" as kind:
                status: pb.Status = getattr(event, kind)
                trouble = trouble_of(status)
                await (self._end(turn, status) if trouble is None else self._move(turn, trouble))
                return
        event.request_id = turn.name
        await self._send(event)

    def _accept(self, turn: Turn) -> None:
        parent = turn.parent
        if parent is not None and not turn.kept_parent:
            if not turn.keep_parent:
                self._turns.forget(parent.name, parent)
            parent.leave()

    async def _leave_all(self, upstream: Upstream, trouble: Trouble) -> None:
        """A pod is gone: what runs there goes elsewhere; what is held there, when it is needed again."""
        for turn in tuple(upstream.turns.values()):
            if turn.home is not upstream:
                continue  # it has moved while another one did
            if turn.running:
                await self._move(turn, trouble)
            else:
                turn.leave()

    async def _move(self, turn: Turn, trouble: Trouble) -> None:
        turn.leave(failed=trouble.failed)
        if turn.cancelled:
            await self._end_cancelled(turn)
        elif not self._closed:
            self._look_for_a_pod(turn, trouble=trouble)

    # How a request ends.

    async def _cancel(self, name: str) -> None:
        turn = self._turns.cancellable(name)
        turn.hold = False
        if not turn.running:
            self._turns.forget(name, turn)
            await _release(turn)
        elif not turn.cancelled:
            turn.cancelled = True
            if turn.home is not None:
                await turn.home.send(_cancel(turn.key))
            elif turn.task is not None:
                turn.task.cancel()

    def _settle(self, turn: Turn, reason: pb.FinishReason) -> None:
        """It has ended, and is held if that was asked for."""
        turn.finish_reason = reason
        turn.passage.finished(turn.progress.finish_reasons, turn.usage)
        turn.placement.succeeded()
        if turn.hold and reason != pb.FINISH_REASON_CANCELLED:
            turn.give_back()
        else:
            turn.leave()
            self._turns.forget(turn.name, turn)
        self._no_longer_runs(turn)

    async def _end(self, turn: Turn, status: pb.Status) -> None:
        """It has ended by an error."""
        turn.passage.failed(status)
        turn.leave()
        self._turns.forget(turn.name, turn)
        self._no_longer_runs(turn)
        if turn.accepted:
            await self._send(pb.SessionResponse(request_id=turn.name, failed=status))
        else:
            await self._reject(turn.name, status)
            if turn.cancelled and status.code != code_pb2.CANCELLED:
                await self._reject(turn.name, status_of(unknown_request(turn.name)))

    async def _end_cancelled(self, turn: Turn) -> None:
        """It was cancelled while it had no pod."""
        if not turn.accepted:
            message = "the request was cancelled before a pod has taken it"
            await self._end(turn, pb.Status(code=code_pb2.CANCELLED, message=message))
            return
        for index in turn.progress.running:
            delta = pb.Delta(finish_reason=pb.FINISH_REASON_CANCELLED, usage=turn.usage, index=index)
            turn.progress.take(delta)
            if turn.progress.ended:
                self._settle(turn, delta.finish_reason)
            await self._send(pb.SessionResponse(request_id=turn.name, delta=delta))

    def _no_longer_runs(self, turn: Turn) -> None:
        turn.decided.set()
        turn.passage.door.end()
        self._running.remove(turn)
        self._router.ended()
        if not self._running:
            self._idle.set()

    async def _reject(self, name: str, status: pb.Status) -> None:
        await self._send(pb.SessionResponse(request_id=name, rejected=status))

    async def _send(self, response: pb.SessionResponse) -> None:
        async with self._writing:
            await self._write(response)


async def _release(turn: Turn) -> None:
    """Ends the hold of a pod on a finished turn, if one has it."""
    home, key = turn.home, turn.key
    if home is not None:
        turn.leave()
        await home.send(_cancel(key))


def _cancel(key: str) -> pb.SessionRequest:
    return pb.SessionRequest(request_id=key, cancel=pb.Cancel())


def _status_of(error: Exception, where: str) -> pb.Status:
    if not isinstance(error, OctavoError):
        log.error("unexpected error in %s", where, exc_info=error)
    return status_of(error)


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
