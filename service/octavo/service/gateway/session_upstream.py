"""A session of a pod on behalf of one of the gateway's: what a client has under way and held there."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import grpc

from octavo.service.gateway.outbox import Outbox
from octavo.service.gateway.upstream import (
    LOST,
    Left,
    Trouble,
    check_there,
    ended_when_lost,
    status_of_call,
    trouble_of,
    trouble_of_call,
    was_lost,
)
from octavo.service.rpc.refusals import Relayed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from octavo.service.gateway.pool import Pick
    from octavo.service.gateway.session_turn import Turn
    from octavo.v1 import inference_pb2 as pb


class Upstream:
    """One stream to one pod. What it says about a turn goes to `deliver`; `ended` hears of its end.

    Ids are our own and never used twice, so that what a pod still says about a request that has left it
    goes nowhere.
    """

    def __init__(
        self,
        pick: Pick,
        deliver: Callable[[Turn, pb.SessionResponse], Awaitable[None]],
        ended: Callable[[Upstream, Trouble], Awaitable[None]],
        metadata: list[tuple[str, str]],
    ) -> None:
        """Left if the pod is lost already."""
        check_there(pick)
        self.pod = pick.pod
        self.open = True
        self.turns: dict[str, Turn] = {}
        """Those that run or are held there, by their ids there."""
        self._lost = pick
        self._deliver = deliver
        self._ended = ended
        self._call: Any = pick.pod.inference.Session(metadata=metadata)
        self._keys = map(str, itertools.count(1))
        self._outbox = Outbox(self._call)
        self._replays: dict[str, asyncio.Future[None]] = {}

    def new_key(self) -> str:
        return next(self._keys)

    async def send(self, request: pb.SessionRequest) -> None:
        await self._outbox.send(request)

    async def hold(self, turn: Turn) -> str:
        """Makes a finished turn that is not at home there held there, and gives its key. Left, Relayed.

        Replays all requests that it goes on from, as they ended (`Resumption.finish_reason`), beginning with
        what follows the last one that is held there already.
        """
        chain = turn.chain
        known = max((i for i, each in enumerate(chain) if each.home is self), default=-1)
        key = chain[known].key if known >= 0 else ""
        for number, each in enumerate(chain[known + 1 :]):
            # What the client holds there stays; what was only made for this goes over into what follows.
            key = await self._replay(each, key, keep_parent=known >= 0 and number == 0)
        return key

    async def _replay(self, turn: Turn, parent_key: str, *, keep_parent: bool) -> str:
        if not self.open:
            raise Left(LOST)
        key = self.new_key()
        done = self._replays[key] = asyncio.get_running_loop().create_future()
        try:
            await self.send(turn.replay(key, parent_key, keep_parent=keep_parent))
            await done
        finally:
            del self._replays[key]
        return key

    async def run(self) -> None:
        """Reads until the stream ends; `close` ends it without a word."""
        trouble = LOST
        try:
            with ended_when_lost(self._call, self._lost):
                while (response := await self._call.read()) is not grpc.aio.EOF:
                    await self._take(response)
        except grpc.aio.AioRpcError as error:
            # What ends a whole session says nothing about one of its requests: let another pod see.
            trouble = trouble_of_call(error) or Trouble(True, False, status_of_call(error))
        except asyncio.CancelledError:
            if not was_lost(self._lost):
                raise
        finally:
            self.open = False
        for replay in self._replays.values():
            if not replay.done():
                replay.set_exception(Left(trouble))
        await self._ended(self, trouble)

    def close(self) -> None:
        """Ends the stream, and so all that runs or is held there."""
        self.open = False
        self._call.cancel()

    async def _take(self, response: pb.SessionResponse) -> None:
        if (turn := self.turns.get(response.request_id)) is not None:
            await self._deliver(turn, response)
        elif (replay := self._replays.get(response.request_id)) is not None and not replay.done():
            match response.WhichOneof("event"):
                case "delta" if response.delta.finish_reason:
                    replay.set_result(None)
                case "rejected" | "failed" as event:
                    status: pb.Status = getattr(response, event)
                    trouble = trouble_of(status)
                    replay.set_exception(Left(trouble) if trouble is not None else Relayed(status))
