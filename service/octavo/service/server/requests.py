"""Requests as the engine takes them: every field of the protocol is read, checked and converted here."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from octavo.engine import FinishReason, InvalidRequest, SamplingParams, Violation
from octavo.engine.chat import ChatMessage, ChatTemplate
from octavo.engine.resumption import Resumption
from octavo.service.rpc.refusals import UnknownModel, within
from octavo.service.rpc.sampling import values_of
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from octavo.engine.async_engine import AsyncEngine
    from octavo.engine.constraints import Constraints

FINISH_REASONS = {
    pb.FINISH_REASON_EOS: FinishReason.EOS,
    pb.FINISH_REASON_STOP: FinishReason.STOP,
    pb.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    pb.FINISH_REASON_CANCELLED: FinishReason.CANCELLED,
    pb.FINISH_REASON_REPETITION: FinishReason.REPETITION,
}
SAMPLING_FIELDS = frozenset(field.name for field in dataclasses.fields(SamplingParams))


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as tokens, and as the messages that they were rendered from if it is a chat."""

    token_ids: Sequence[int]
    messages: tuple[ChatMessage, ...] | None = None


class RequestReader:
    """Reads the messages of the protocol for one engine. Every method raises InvalidRequest."""

    def __init__(self, engine: AsyncEngine, served_name: str) -> None:
        self.engine = engine
        self.tokenizer = engine.tokenizer
        self.vocab_size = engine.model.vocab_size
        self.served_name = served_name

    def check_model(self, name: str) -> None:
        if name and name != self.served_name:
            rule = f"must be empty or {self.served_name!r}, the model that is served here"
            raise UnknownModel(Violation("model", name, rule))

    async def sampling(self, message: pb.SamplingParams) -> tuple[SamplingParams, Constraints]:
        """The engine's parameters, and what it makes of those that have to be compiled."""
        with within("sampling"):
            params = SamplingParams(**values_of(message))
            params.validate(self.vocab_size)
            return params, await self.engine.compile(params)

    async def prompt(self, message: pb.Prompt) -> Prompt:
        with within("prompt"):
            match message.WhichOneof("input"):
                case "text":
                    return Prompt(await self.encode(_not_empty("text", message.text)))
                case "chat":
                    messages = self.messages(message.chat)
                    return Prompt(await self.chat(messages), messages)
                case "token_ids":
                    return Prompt(self.token_ids("token_ids.ids", message.token_ids.ids))
        raise _nothing_set("prompt", "text, chat, token_ids")

    def token_ids(self, field: str, ids: Sequence[int], *, may_be_empty: bool = False) -> list[int]:
        if not ids and not may_be_empty:
            raise InvalidRequest(Violation(field, [], "must not be empty"))
        if ids and max(ids) >= self.vocab_size:
            at = next(i for i, token in enumerate(ids) if token >= self.vocab_size)
            rule = f"must be in the vocabulary, less than {self.vocab_size}"
            raise InvalidRequest(Violation(f"{field}[{at}]", ids[at], rule))
        return list(ids)

    async def tokenize(self, message: pb.TokenizeRequest) -> list[int]:
        explicit = message.HasField("add_special_tokens")
        match message.WhichOneof("input"):
            case "text":
                return await self.encode(message.text, message.add_special_tokens if explicit else True)
            case "chat":
                if explicit:
                    rule = "must not be set with chat: the template writes its own special tokens"
                    raise InvalidRequest(Violation("add_special_tokens", message.add_special_tokens, rule))
                return await self.chat(self.messages(message.chat))
        raise _nothing_set("input", "text, chat")

    def messages(self, chat: pb.Chat) -> tuple[ChatMessage, ...]:
        if not chat.messages:
            raise InvalidRequest(Violation("chat.messages", [], "must not be empty"))
        return tuple(ChatMessage(role=message.role, content=message.content) for message in chat.messages)

    async def chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        with within("chat"):
            text = await asyncio.to_thread(self.template.render, list(messages))
        return await self.encode(text, add_special_tokens=False)

    @property
    def template(self) -> ChatTemplate:
        if self.tokenizer.chat_template is None:
            rule = f"{self.served_name!r} has no chat template; give text or token_ids"
            raise InvalidRequest(Violation("messages", "a chat", rule))
        return self.tokenizer.chat_template

    async def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        # In a thread: a long text takes long, and the streams of others must go on.
        return await asyncio.to_thread(self.tokenizer.encode, text, add_special_tokens)


@contextmanager
def submitting() -> Iterator[None]:
    """Gives parameters in an InvalidRequest of `AsyncEngine.submit` the place that they have in a message."""
    try:
        yield
    except InvalidRequest as error:
        placed = (
            replace(v, field=f"sampling.{v.field}") if v.field in SAMPLING_FIELDS else v
            for v in error.violations
        )
        raise InvalidRequest(*placed) from None


def resumption(message: pb.Submit | pb.Continue | pb.GenerateRequest) -> Resumption | None:
    """What another server put out for this request, as the engine takes it, which checks it too."""
    if not message.HasField("resume"):
        return None
    for i, output in enumerate(message.resume.outputs):
        if output.outputs:
            rule = "must be empty: an output has none of its own"
            raise InvalidRequest(Violation(f"resume.outputs[{i}].outputs", len(output.outputs), rule))
    return _resumption(message.resume)


def _resumption(message: pb.Resumption) -> Resumption:
    return Resumption(
        tuple(message.token_ids),
        FINISH_REASONS[message.finish_reason] if message.finish_reason else None,
        tuple(map(_resumption, message.outputs)),
    )


def _not_empty(field: str, value: str) -> str:
    if not value:
        raise InvalidRequest(Violation(field, value, "must not be empty"))
    return value


def _nothing_set(field: str, choices: str) -> InvalidRequest:
    return InvalidRequest(Violation(field, None, f"is required: one of {choices}"))
