"""A gateway's one stream to a pod for all `Generate` requests: they share its messages, and so their cost."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from octavo.service.gateway.direct import DirectCall
from octavo.service.gateway.outbox import Outbox
from octavo.service.gateway.upstream import (
    LOST,
    Left,
    Trouble,
    check_there,
    ended_when_lost,
    may_lack_method,
    status_of_call,
    trouble_of,
    trouble_of_call,
    was_lost,
)
from octavo.service.rpc.refusals import Relayed
from octavo.v1 import engine_pb2 as pb
from octavo.v1.engine_pb2_grpc import EngineStub

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo.service.gateway.pod import Pod
    from octavo.service.gateway.pool import Pick
    from octavo.v1 import inference_pb2

MOST_UNREAD = 32
"""Responses of one request that may wait here for its client; then the pod is asked to pause it."""


class Link:
    """`Engine.Relay` of one pod. What comes is sorted into the inboxes of the requests under way."""

    def __init__(self, pick: Pick) -> None:
        self.open = True
        self._pick = pick
        self._heard = False
        stub: Any = EngineStub(pick.pod.channel)
        self._call: Any = stub.Relay()
        self._inboxes: dict[int, Inbox] = {}
        self._numbers = itertools.count(1)
        self._outbox = Outbox(self._call)
        self._reading = asyncio.create_task(self._read(), name=f"link to {pick.pod.address}")

    async def begin(self, request: bytes, trace: tuple[str, str]) -> Inbox:
        """Sends a request; its output is to be read from the inbox, which is to be closed."""
        number = next(self._numbers)
        inbox = self._inboxes[number] = Inbox(self, number, partial(DirectCall, self._pick, request, trace))
        traceparent, tracestate = trace
        try:
            await self._outbox.send(
                pb.RelayRequest(
                    request_id=number, generate=request, traceparent=traceparent, tracestate=tracestate
                )
            )
        except BaseException:
            inbox.close()
            raise
        return inbox

    def tell(self, command: pb.RelayRequest) -> None:
        """Sends a command without waiting until it is on its way."""
        if self.open:
            self._outbox.post(command)

    def forget(self, number: int) -> None:
        self._inboxes.pop(number, None)

    async def close(self) -> None:
        """Ends all that is under way there."""
        self.open = False
        self._reading.cancel()
        await asyncio.wait({self._reading})
        await self._outbox.done()

    async def _read(self) -> None:
        trouble = LOST
        try:
            with ended_when_lost(self._call, self._pick):
                while (response := await self._call.read()) is not grpc.aio.EOF:
                    self._sort(response)
        except grpc.aio.AioRpcError as error:
            if not self._heard and not self._pick.lost.is_set() and may_lack_method(error):
                self._go_without()
            # What ends the whole stream says nothing about one of its requests: let another pod see.
            trouble = trouble_of_call(error) or Trouble(True, False, status_of_call(error))
        except asyncio.CancelledError:
            if not was_lost(self._pick):
                raise
        finally:
            self.open = False
            for inbox in self._inboxes.values():
                inbox.end(Left(trouble))

    def _go_without(self) -> None:
        """An older pod, which knows no relay: each request goes there by a call of its own.

        If it is not that, the calls tell why, or succeed.
        """
        self._pick.pod.relays = False
        inboxes, self._inboxes = self._inboxes, {}
        for inbox in inboxes.values():
            inbox.call()

    def _sort(self, response: pb.RelayResponse) -> None:
        self._heard = True
        for event in response.events:
            inbox = self._inboxes.get(event.request_id)
            if inbox is None:
                continue  # it has been cancelled
            if event.HasField("error"):
                trouble = trouble_of(event.error)
                inbox.end(Relayed(event.error) if trouble is None else Left(trouble))
            else:
                inbox.put(event.response)


class Inbox:
    """What has come for one request and its client has not taken yet."""

    def __init__(self, link: Link, number: int, direct: Callable[[], DirectCall]) -> None:
        """direct: makes the same request by a call of its own."""
        self._link = link
        self._number = number
        self._direct = direct
        self._call: DirectCall | None = None
        self._responses: deque[bytes] = deque()
        self._error: Exception | None = None
        self._news: asyncio.Future[None] | None = None
        self._paused = False

    async def read(self) -> bytes:
        """The next GenerateResponse, as bytes. Left if it must go elsewhere, Relayed if it has failed."""
        while not self._responses:
            if self._call is not None:
                return await self._call.read()
            if self._error is not None:
                raise self._error
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        if self._paused and len(self._responses) == 1:
            self._paused = False
            self._link.tell(pb.RelayRequest(request_id=self._number, proceed=pb.RelayProceed()))
        return self._responses.popleft()

    def put(self, response: bytes) -> None:
        self._responses.append(response)
        if len(self._responses) > MOST_UNREAD and not self._paused:
            self._paused = True
            self._link.tell(pb.RelayRequest(request_id=self._number, pause=pb.RelayPause()))
        self._wake()

    def end(self, error: Exception) -> None:
        """Nothing more comes, because of this; what has come before can still be read."""
        self._error = self._error or error
        self._wake()

    def call(self) -> None:
        """The request is made by a call of its own."""
        self._call = self._direct()
        self._wake()

    def close(self, *, finished: bool = False) -> None:
        """Nobody reads any longer. finished: the pod knows of no such request any longer."""
        if self._call is not None:
            self._call.close()
        self._link.forget(self._number)
        if not finished and self._error is None:
            self._link.tell(pb.RelayRequest(request_id=self._number, cancel=pb.RelayCancel()))

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class Links:
    """The links of a gateway, one to each pod that has got a request; of one that is lost, a new one."""

    def __init__(self) -> None:
        self._links: dict[Pod, Link] = {}

    async def begin(
        self, pick: Pick, request: inference_pb2.GenerateRequest, trace: tuple[str, str]
    ) -> Inbox | DirectCall:
        """Sends a request; its output is to be read from what is returned, which is to be closed. Left.

        trace: traceparent and tracestate for it.
        """
        check_there(pick)
        message = request.SerializeToString()
        if not pick.pod.relays:
            return DirectCall(pick, message, trace)
        return await self._of(pick).begin(message, trace)

    def _of(self, pick: Pick) -> Link:
        link = self._links.get(pick.pod)
        if link is None or not link.open:
            for pod in [pod for pod, each in self._links.items() if not each.open]:
                del self._links[pod]
            link = self._links[pick.pod] = Link(pick)
        return link

    async def close(self) -> None:
        links, self._links = self._links, {}
        for link in links.values():
            await link.close()
