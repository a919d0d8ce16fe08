"""The service `Inference`: what clients call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from octavo.service.rpc.boundary import writer
from octavo.service.server.requests import RequestReader
from octavo.service.server.responses import delta_message, model_message
from octavo.service.server.session import Session
from octavo.v1 import inference_pb2 as pb
from octavo.v1.inference_pb2_grpc import InferenceServicer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from octavo.engine.async_engine import AsyncEngine
    from octavo.service.rpc.boundary import Malformed

Context = grpc.aio.ServicerContext[Any, Any]


class Inference(InferenceServicer):
    """Answers for one engine. `stopped` is set once no request runs any longer and the server stops."""

    def __init__(self, engine: AsyncEngine, served_name: str, stopped: asyncio.Event) -> None:
        self.engine = engine
        self.reader = RequestReader(engine, served_name)
        self.stopped = stopped

    async def Session(self, commands: AsyncIterator[pb.SessionRequest | Malformed], context: Context) -> None:
        await Session(self.engine, self.reader, writer(context)).run(commands, self.stopped)

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        self.reader.check_model(request.model)
        params = self.reader.sampling(request.sampling)
        prompt = await self.reader.prompt(request.prompt)
        write = writer(context)
        stream = self.engine.submit(prompt.token_ids, params, priority=request.priority)
        try:
            # The next delta is taken only once gRPC has taken this one: a slow reader slows its own sequence.
            async for delta in stream:
                await write(pb.GenerateResponse(delta=delta_message(delta)))
        finally:
            stream.cancel()

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        self.reader.check_model(request.model)
        return pb.TokenizeResponse(token_ids=await self.reader.tokenize(request))

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        self.reader.check_model(request.model)
        token_ids = self.reader.token_ids("token_ids", request.token_ids, may_be_empty=True)
        explicit = request.HasField("skip_special_tokens")
        skip = request.skip_special_tokens if explicit else True
        text = await asyncio.to_thread(self.engine.tokenizer.decode, token_ids, skip)
        return pb.DetokenizeResponse(text=text)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        self.reader.check_model(request.model)
        template = self.engine.tokenizer.chat_template
        model = model_message(
            self.engine.model, self.reader.served_name, has_chat_template=template is not None
        )
        return pb.GetModelResponse(model=model)
