"""The messages of a chat as clients send them, as the protocol has them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from octavo.engine import InvalidRequest, Violation
from octavo.service.openai.parameters import Only, Strict, Unsupported, WithoutEffect
from octavo.v1 import inference_pb2 as pb

PART_SEPARATOR = "\n"
"""Between the text parts of one message, as vLLM and llama.cpp put it."""


def _text(content: object) -> object:
    """The text of a message's content: a string, a list of text parts, or null for no text."""
    if content is None:
        return ""
    if isinstance(content, list):
        return PART_SEPARATOR.join(_part_text(i, part) for i, part in enumerate(content))
    if isinstance(content, str):
        return content
    raise PydanticCustomError("content", "must be a string or a list of text parts")


def _part_text(i: int, part: object) -> str:
    if not isinstance(part, dict):
        raise InvalidRequest(Violation(f"[{i}]", part, "must be an object with type and text"))
    if part.get("type") != "text":
        rule = "must be 'text'; other parts are not supported yet"
        raise InvalidRequest(Violation(f"[{i}].type", part.get("type"), rule))
    if not isinstance(part.get("text"), str):
        raise InvalidRequest(Violation(f"[{i}].text", part.get("text"), "must be a string"))
    for name in part.keys() - {"type", "text"}:
        if part[name] is not None:
            raise InvalidRequest(Violation(f"[{i}].{name}", part[name], "is not supported yet; leave it out"))
    return str(part["text"])


class Message(Strict):
    """One message. A reply that a client got from us can be sent back as it came.

    Which roles there are and where each may stand, and what must not be empty, the engine knows.
    """

    role: str
    content: Annotated[str, BeforeValidator(_text)] = ""
    tool_call_id: Annotated[str | None, WithoutEffect("a chat template is given roles and contents only")] = (
        None
    )
    name: Unsupported = None
    tool_calls: Annotated[object, Only([])] = None
    function_call: Unsupported = None
    refusal: Unsupported = None
    annotations: Annotated[object, Only([])] = None
    audio: Unsupported = None
    reasoning: Annotated[str | None, WithoutEffect("a chat template is given roles and contents only")] = None
    reasoning_content: Annotated[
        str | None, WithoutEffect("a chat template is given roles and contents only")
    ] = None

    def to_proto(self) -> pb.ChatMessage:
        return pb.ChatMessage(role=self.role, content=self.content)
