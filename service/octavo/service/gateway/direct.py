"""A request at a pod without `Engine.Relay`, such as an older one: it has a call of its own."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import grpc

from octavo.service.gateway.upstream import (
    LOST,
    Left,
    ended_when_lost,
    status_of_call,
    trouble_of_call,
    was_lost,
)
from octavo.service.rpc.refusals import Relayed
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from octavo.service.gateway.pool import Pick

GENERATE = f"/{pb.DESCRIPTOR.services_by_name['Inference'].full_name}/Generate"


class DirectCall:
    """`Inference.Generate` at a pod. Is read and closed as an `Inbox` is."""

    def __init__(self, pick: Pick, request: bytes, trace: tuple[str, str]) -> None:
        """request: a GenerateRequest. trace: traceparent and tracestate for it."""
        self._pick = pick
        metadata = [pair for pair in zip(("traceparent", "tracestate"), trace, strict=True) if pair[1]]
        generate: Any = pick.pod.channel.unary_stream(GENERATE)
        self._call: Any = generate(request, metadata=metadata)
        self._end = ExitStack()
        self._end.enter_context(ended_when_lost(self._call, pick))

    async def read(self) -> bytes:
        """The next GenerateResponse, as bytes. Left if it must go elsewhere, Relayed if it failed."""
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            trouble = trouble_of_call(error)
            raise (Relayed(status_of_call(error)) if trouble is None else Left(trouble)) from None
        except asyncio.CancelledError:
            if not was_lost(self._pick):
                raise
            raise Left(LOST) from None
        if response is grpc.aio.EOF:
            raise Left(LOST)
        return response  # type: ignore[no-any-return]

    def close(self, *, finished: bool = False) -> None:
        """Nobody reads any longer."""
        self._end.close()
