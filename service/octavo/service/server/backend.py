"""What a pod's doors, gRPC and HTTP, ask of the engine behind them: requests as messages of the protocol."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from opentelemetry import trace

from octavo.service.server.requests import RequestReader, resumption, submitting
from octavo.service.server.responses import delta_message, model_message
from octavo.service.telemetry.engine_spans import described
from octavo.service.telemetry.tracing import describe_request
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from opentelemetry.trace import Tracer

    from octavo.engine.async_engine import AsyncEngine
    from octavo.service.backend import Origin


class EngineBackend:
    """A `Backend` of one engine, which is loaded and started."""

    def __init__(self, engine: AsyncEngine, served_name: str, tracer: Tracer) -> None:
        """tracer: makes the spans of what the engine did for a request, below its door's."""
        self.engine = engine
        self.reader = RequestReader(engine, served_name)
        self.tracer = tracer

    async def models(self) -> list[pb.Model]:
        return [await self.model("")]

    async def model(self, name: str) -> pb.Model:
        self.reader.check_model(name)
        has_template = self.engine.tokenizer.chat_template is not None
        return model_message(self.engine.model, self.reader.served_name, has_chat_template=has_template)

    async def generate(self, request: pb.GenerateRequest, origin: Origin) -> AsyncGenerator[pb.Delta]:
        self.reader.check_model(request.model)
        door = trace.get_current_span(origin.context)
        describe_request(door, self.reader.served_name, request)
        params, constraints = await self.reader.sampling(request.sampling)
        prompt = await self.reader.prompt(request.prompt)
        with submitting():
            stream = self.engine.submit(
                prompt.token_ids,
                params,
                priority=request.priority,
                resume=resumption(request),
                constraints=constraints,
            )
        with described(self.tracer, door, stream):
            try:
                # The next delta is taken only when it is asked for: a slow reader slows its own sequence.
                async for delta in stream:
                    yield delta_message(delta, self.engine.tokenizer)
            finally:
                stream.cancel()

    async def tokenize(self, request: pb.TokenizeRequest) -> pb.TokenizeResponse:
        self.reader.check_model(request.model)
        return pb.TokenizeResponse(token_ids=await self.reader.tokenize(request))

    async def detokenize(self, request: pb.DetokenizeRequest) -> pb.DetokenizeResponse:
        self.reader.check_model(request.model)
        token_ids = self.reader.token_ids("token_ids", request.token_ids, may_be_empty=True)
        explicit = request.HasField("skip_special_tokens")
        skip = request.skip_special_tokens if explicit else True
        text = await asyncio.to_thread(self.engine.tokenizer.decode, token_ids, skip)
        return pb.DetokenizeResponse(text=text)
