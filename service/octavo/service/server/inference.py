"""The service `Inference`: what clients call."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc

from octavo.service.backend import Origin
from octavo.service.rpc.boundary import shared_writer, writer
from octavo.service.server.session import Session
from octavo.service.telemetry.rpc import SessionDoor
from octavo.v1 import inference_pb2 as pb
from octavo.v1.inference_pb2_grpc import InferenceServicer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

    from octavo.service.rpc.boundary import Malformed
    from octavo.service.server.backend import EngineBackend

Context = grpc.aio.ServicerContext[Any, Any]


class Inference(InferenceServicer):
    """Answers for one engine. `stopped` is set once no request runs any longer and the server stops."""

    def __init__(self, backend: EngineBackend, stopped: asyncio.Event) -> None:
        self.backend = backend
        self.stopped = stopped

    async def Session(self, commands: AsyncIterator[pb.SessionRequest | Malformed], context: Context) -> None:
        session = Session(
            self.backend, await shared_writer(context), SessionDoor(self.backend.tracer, context)
        )
        await session.run(commands, self.stopped)

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        write = writer(context)
        async with aclosing(self.backend.generate(request, Origin())) as deltas:
            # The next delta is taken only once gRPC has taken this one.
            async for delta in deltas:
                await write(pb.GenerateResponse(delta=delta))

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        return await self.backend.tokenize(request)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        return await self.backend.detokenize(request)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=await self.backend.model(request.model))
