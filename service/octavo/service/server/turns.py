"""A turn: one request and its place in a conversation; and how the next turn's tokens follow from it."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from octavo.engine import FinishReason, InvalidRequest, Violation
from octavo.engine.chat import ChatMessage
from octavo.engine.detokenizer import Detokenizer
from octavo.service.rpc.refusals import within
from octavo.service.server.requests import Prompt, RequestReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import Span

    from octavo.engine.stream import Stream
    from octavo.engine.tokenizer import Tokenizer
    from octavo.v1 import inference_pb2 as pb


@dataclass(slots=True)
class Turn:
    """One request of a session: its span, its stream, the chat that it answers, and whether to hold it.

    echo: whether the text of the stream begins with the prompt's.
    """

    span: Span
    stream: Stream
    messages: tuple[ChatMessage, ...] | None
    hold: bool
    echo: bool

    @property
    def running(self) -> bool:
        return not self.stream.finished

    @property
    def held(self) -> bool:
        return self.stream.held

    @property
    def token_ids(self) -> list[int]:
        return [*self.stream.prompt_token_ids, *self.stream.output_token_ids]

    def reply(self, tokenizer: Tokenizer) -> str:
        """The text of the output alone."""
        if not self.echo:
            return self.stream.text
        return self.stream.text.removeprefix(Detokenizer(tokenizer).echo(self.stream.prompt_token_ids))


async def following_prompt(reader: RequestReader, parent: Turn, message: pb.Prompt) -> Prompt:
    """The whole sequence that a finished turn and the new input make. InvalidRequest for a bad input.

    It begins with the parent's own tokens wherever that can be, so that the engine finds them in its blocks.
    """
    if message.WhichOneof("input") != "chat":
        added = await _following_tokens(reader, message)
        return Prompt([*parent.token_ids, *added])
    if parent.messages is None:
        rule = "must not be set: the request that is continued was no chat"
        raise InvalidRequest(Violation("prompt.chat", "a chat", rule))
    with within("prompt"):
        new = reader.messages(message.chat)
    reply = parent.reply(reader.tokenizer)
    conversation = (*parent.messages, ChatMessage(role="assistant", content=reply), *new)
    with within("prompt.chat"), _counted_from(len(parent.messages) + 1):
        text = reader.template.continuation(list(parent.messages), reply, list(new))
    if text is not None and (tokens := _joined(parent, await reader.encode(text, add_special_tokens=False))):
        return Prompt(tokens, conversation)
    with within("prompt"):
        return Prompt(await reader.chat(conversation), conversation)


@contextmanager
def _counted_from(first: int) -> Iterator[None]:
    """Gives the messages in an InvalidRequest the places that they have in the client's message."""
    try:
        yield
    except InvalidRequest as error:
        shifted = (
            replace(v, field=re.sub(r"(?<=^messages\[)\d+", lambda m: str(int(m[0]) - first), v.field))
            for v in error.violations
        )
        raise InvalidRequest(*shifted) from None


async def _following_tokens(reader: RequestReader, message: pb.Prompt) -> list[int]:
    if message.WhichOneof("input") == "text" and message.text:
        return list(await reader.encode(message.text, add_special_tokens=False))
    return list((await reader.prompt(message)).token_ids)


def _joined(parent: Turn, added: list[int]) -> list[int] | None:
    """The parent's tokens and those of the template's text after its reply; None if they do not meet.

    A reply that ended by end-of-sequence has the token with which that text begins. One that ended by a
    stop has tokens that are not part of its text.
    """
    match parent.stream.finish_reason:
        case FinishReason.STOP:
            return None
        case FinishReason.EOS:
            return [*parent.token_ids, *added[1:]] if added[:1] == parent.token_ids[-1:] else None
        case _:
            return [*parent.token_ids, *added]
