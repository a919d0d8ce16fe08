"""One request of a gateway's session: what it asks for, what its client was told, and where it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from octavo.service.gateway.router import prompt_tokens
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from octavo.service.gateway.placement import Placement
    from octavo.service.gateway.pool import Pick, Pool
    from octavo.service.gateway.progress import Progress
    from octavo.service.gateway.session_upstream import Upstream
    from octavo.service.telemetry.passage import Passage


@dataclass(eq=False, slots=True)
class Turn:
    """A request, and all that it takes to begin it again elsewhere."""

    name: str
    """The client's id."""
    command: pb.Submit | pb.Continue
    """As the client gave it, with its seed fixed."""
    parent: Turn | None
    pool: Pool
    progress: Progress
    passage: Passage
    hold: bool
    trace: tuple[str, str] = ("", "")
    """traceparent and tracestate of its attempt at the pod where it is."""
    placement: Placement = field(init=False)
    accepted: bool = False
    """Whether the client was told that it was."""
    finish_reason: pb.FinishReason = pb.FINISH_REASON_UNSPECIFIED
    usage: pb.Usage = field(default_factory=pb.Usage)
    """As told last."""
    cancelled: bool = False
    """Whether the client has cancelled it while it ran."""
    home: Upstream | None = None
    """Where it runs or is held; None while it looks for a pod, or when it was held by one that is gone."""
    key: str = ""
    """Its id there."""
    pick: Pick | None = None
    """While it is at a pod: returned when it ends or leaves."""
    address: str = ""
    """Of the pod that it is at, or was at last."""
    told_before: int = 0
    """Tokens told before it came to that pod."""
    kept_parent: bool = False
    """Whether that pod was told to keep what it goes on from."""
    decided: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it is accepted, or has ended without."""
    successor: Turn | None = None
    """The last request that went on from this one without leaving it held."""
    moving: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a request that goes on from this one is being brought to a pod, and this one with it."""
    task: asyncio.Task[None] | None = None
    """Looks for a pod, when it has none."""

    @property
    def running(self) -> bool:
        return not self.finish_reason

    @property
    def held(self) -> bool:
        return self.hold and not self.running

    @property
    def keep_parent(self) -> bool:
        """Whether the client wants what this goes on from to stay held."""
        return isinstance(self.command, pb.Continue) and self.command.keep_parent

    @property
    def num_told(self) -> int:
        return self.progress.num_tokens

    @property
    def new_tokens(self) -> int:
        """About what a pod has to compute that holds what this goes on from."""
        return prompt_tokens(self.command.prompt) + self.num_told

    @property
    def all_tokens(self) -> int:
        """About what any other pod has to compute."""
        if self.parent is None:
            return self.new_tokens
        before = self.parent.usage
        return before.prompt_tokens + before.output_tokens + self.new_tokens

    @property
    def chain(self) -> list[Turn]:
        """All that it goes on from, the first one first, and itself."""
        turns = [self]
        while (parent := turns[-1].parent) is not None:
            turns.append(parent)
        return turns[::-1]

    def request(self, key: str, parent_key: str, *, keep_parent: bool) -> pb.SessionRequest:
        """The command that begins it on a pod, or lets it go on there."""
        traceparent, tracestate = self.trace
        request = pb.SessionRequest(request_id=key, traceparent=traceparent, tracestate=tracestate)
        if isinstance(self.command, pb.Submit):
            request.submit.CopyFrom(self.command)
        else:
            request.continuation.CopyFrom(self.command)
            request.continuation.from_request_id = parent_key
            request.continuation.keep_parent = keep_parent
        message = _message(request)
        message.hold = self.hold
        self.progress.resume(message)
        return request

    def replay(self, key: str, parent_key: str, *, keep_parent: bool) -> pb.SessionRequest:
        """The command that makes a pod hold it as it has ended, without computing anything."""
        request = self.request(key, parent_key, keep_parent=keep_parent)
        message = _message(request)
        message.hold = True
        message.resume.token_ids[:] = self.progress.token_ids
        message.resume.finish_reason = self.finish_reason
        return request

    def leave(self, *, failed: bool = False) -> None:
        """It is no longer at its pod."""
        if self.home is not None:
            self.home.turns.pop(self.key, None)
            self.home = None
        self.give_back(failed=failed)

    def give_back(self, *, failed: bool = False) -> None:
        if self.pick is not None:
            self.pick.done(failed)
            self.pick = None


def _message(request: pb.SessionRequest) -> pb.Submit | pb.Continue:
    return request.submit if request.HasField("submit") else request.continuation
