"""The gRPC door: the service `Inference` as a pod has it, for all models."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry.context import get_current

from octavo.service.backend import Origin
from octavo.service.gateway.session import Session
from octavo.service.rpc.boundary import shared_writer, writer
from octavo.service.telemetry.rpc import SessionDoor
from octavo.v1 import inference_pb2 as pb
from octavo.v1.inference_pb2_grpc import InferenceServicer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

    from octavo.service.gateway.router import Router
    from octavo.service.rpc.boundary import Malformed

Context = grpc.aio.ServicerContext[Any, Any]

PASSED_ON = frozenset({f"/{pb.DESCRIPTOR.services_by_name['Inference'].full_name}/Generate"})
"""The paths of methods whose responses are bytes, just as a pod sent them."""
SESSION_ID = "x-session-id"
"""Metadata by which requests of one conversation find the same pod; the HTTP door has a header like it."""


class Inference(InferenceServicer):
    """Answers for all pods. `stopped` is set once no request runs any longer and the gateway stops."""

    def __init__(self, router: Router, stopped: asyncio.Event) -> None:
        self.router = router
        self.stopped = stopped

    async def Session(self, commands: AsyncIterator[pb.SessionRequest | Malformed], context: Context) -> None:
        door = SessionDoor(self.router.telemetry.tracer, context)
        session = Session(self.router, await shared_writer(context), session_of(context), [], door)
        await session.run(commands, self.stopped)

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        write = writer(context)
        origin = Origin(session_of(context), get_current())
        async with aclosing(self.router.pieces(request, origin)) as pieces:
            # The next piece is read only once gRPC has taken this one: a slow reader slows its own sequence.
            async for piece in pieces:
                await write(piece.response)

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        return await self.router.tokenize(request)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        return await self.router.detokenize(request)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=await self.router.model(request.model))


def session_of(context: Context) -> str:
    """What session affinity goes by; empty if the client says nothing."""
    for key, value in context.invocation_metadata() or ():
        if key == SESSION_ID and isinstance(value, str):
            return value
    return ""
