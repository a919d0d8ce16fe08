"""What a pod's answer means for a request: that it was lost there, refused for now, or refused for good."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from google.rpc import code_pb2

from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from octavo.service.gateway.pool import Pick

DETAILS_TRAILER = "grpc-status-details-bin"
BROKEN = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
"""With one of these, and without details, it is gRPC that tells of a broken connection, not the pod."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a request must go to another pod.

    failed: the pod is not to be relied on. busy: it is well, but its queue is full.
    status: what to tell the client if nobody else can serve the request either.
    """

    failed: bool
    busy: bool
    status: pb.Status

    @property
    def reason(self) -> str:
        """In a word: `lost`, `busy`, or `unavailable` if the pod itself says so."""
        return "lost" if self.failed else "busy" if self.busy else "unavailable"

    def __str__(self) -> str:
        return self.status.message


class Left(Exception):
    """A pod cannot do its part, because of `trouble`."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble


LOST = Trouble(True, False, pb.Status(code=code_pb2.UNAVAILABLE, message="the pod was lost"))


def check_there(pick: Pick) -> None:
    """Left if the pod is lost already: no call can begin on a channel that may be closed."""
    if pick.lost.is_set():
        raise Left(LOST)


def trouble_of(status: pb.Status) -> Trouble | None:
    """What a pod's own status means; None if any other pod would say the same."""
    if status.code == code_pb2.UNAVAILABLE:  # it drains, or its engine has failed: its reports say so too
        return Trouble(False, False, status)
    if status.code == code_pb2.RESOURCE_EXHAUSTED and _has_retry_info(status):
        return Trouble(False, True, status)
    return None


def trouble_of_call(error: grpc.aio.AioRpcError) -> Trouble | None:
    """What the end of a call means; None if any other pod would end it in the same way."""
    if (status := _details(error)) is not None:
        return trouble_of(status)
    if error.code() in BROKEN:
        # Whatever gRPC calls it: when a pod is lost, it depends on who notices first.
        return Trouble(True, False, pb.Status(code=code_pb2.UNAVAILABLE, message=error.details() or ""))
    return None


def status_of_call(error: grpc.aio.AioRpcError) -> pb.Status:
    """As the pod told it, or as gRPC did."""
    if (status := _details(error)) is not None:
        return status
    return pb.Status(code=error.code().value[0], message=error.details() or "")


def may_lack_method(error: grpc.aio.AioRpcError) -> bool:
    """Whether the end of a stream that has brought nothing can mean that the pod knows no such method.

    It says UNIMPLEMENTED; but if a write fails before that is read, gRPC ends the stream with INTERNAL.
    """
    codes = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL)
    return error.code() in codes and _details(error) is None


@contextmanager
def ended_when_lost(call: Any, pick: Pick) -> Iterator[None]:
    """Cancels the call when its pod is lost, and at the end: a pod that wakes up again drops the request.

    Reading such a call raises CancelledError, as if the reader itself were to end: see `was_lost`.
    """
    watch = asyncio.create_task(_cancel_when(pick.lost, call))
    try:
        yield
    finally:
        watch.cancel()
        call.cancel()


def was_lost(pick: Pick) -> bool:
    """Whether a CancelledError means the call, and not the task that reads it."""
    task = asyncio.current_task()
    return pick.lost.is_set() and not (task and task.cancelling())


async def _cancel_when(lost: asyncio.Event, call: Any) -> None:
    await lost.wait()
    call.cancel()


def _details(error: grpc.aio.AioRpcError) -> pb.Status | None:
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_TRAILER and isinstance(value, bytes):
            return pb.Status.FromString(value)
    return None


def _has_retry_info(status: pb.Status) -> bool:
    return any(detail.type_url.endswith("/google.rpc.RetryInfo") for detail in status.details)
