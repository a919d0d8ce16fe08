"""POST /tokenize and /detokenize, as vLLM has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from octavo.engine import InvalidRequest, OctavoError, Violation
from octavo.service.openai.errors import Refused, refusal
from octavo.service.openai.messages import Message
from octavo.service.openai.parameters import Only, Strict, TokenIds
from octavo.service.openai.parsing import parse
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from octavo.service.backend import Backend
    from octavo.service.openai.exchange import Exchange


class TokenizeRequest(Strict):
    """A text in `prompt`, or a chat in `messages`."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(fail_fast=True)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: Annotated[object, Only(True)] = None
    return_token_strs: Annotated[object, Only(False)] = None

    @model_validator(mode="after")
    def _one_input(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequest(Violation("prompt", self.prompt, "either this or messages is required"))
        return self

    def to_proto(self) -> pb.TokenizeRequest:
        request = pb.TokenizeRequest(model=self.model or "", add_special_tokens=self.add_special_tokens)
        if self.messages is None:
            request.text = self.prompt or ""
        else:
            request.chat.messages.extend(message.to_proto() for message in self.messages)
            request.chat.SetInParent()
        return request


class DetokenizeRequest(Strict):
    model: str | None = None
    tokens: TokenIds

    def to_proto(self) -> pb.DetokenizeRequest:
        # vLLM shows special tokens here.
        return pb.DetokenizeRequest(model=self.model or "", token_ids=self.tokens, skip_special_tokens=False)


class Tokens:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def tokenize(self, exchange: Exchange) -> None:
        request = parse(TokenizeRequest, await exchange.body())
        try:
            ids = (await self._backend.tokenize(request.to_proto())).token_ids
        except OctavoError as error:
            raise Refused(refusal(error, lambda field: field.removeprefix("chat."))) from error
        model = await self._backend.model(request.model or "")
        await exchange.respond_json(
            {"count": len(ids), "max_model_len": model.max_model_len, "tokens": list(ids), "token_strs": None}
        )

    async def detokenize(self, exchange: Exchange) -> None:
        request = parse(DetokenizeRequest, await exchange.body())
        try:
            text = (await self._backend.detokenize(request.to_proto())).text
        except OctavoError as error:
            raise Refused(refusal(error, lambda field: field.replace("token_ids", "tokens"))) from error
        await exchange.respond_json({"prompt": text})
