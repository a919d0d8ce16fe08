"""Answers as JSON: the events of a stream, which cost as little as can be, and whole ones."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Any

from octavo.service.openai.logprobs import ChatLogprobs, CompletionLogprobs
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from octavo.service.openai.logprobs import LogprobShape

FINISH_REASONS = {
    pb.FINISH_REASON_EOS: "stop",
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
}
compact = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
DONE = "data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Shape:
    """In what the answers of the two kinds of completion differ.

    text_field: how an event's text is put into its choice, around the text itself; and one without text.
    """

    prefix: str
    whole: str
    event: str
    text_field: tuple[str, str]
    no_text: str
    role_event: bool
    logprobs: Callable[[], LogprobShape]


CHAT = Shape(
    prefix="chatcmpl-",
    whole="chat.completion",
    event="chat.completion.chunk",
    text_field=('"delta":{"content":', "}"),
    no_text='"delta":{}',
    role_event=True,
    logprobs=ChatLogprobs,
)
COMPLETION = Shape(
    prefix="cmpl-",
    whole="text_completion",
    event="text_completion",
    text_field=('"text":', ""),
    no_text='"text":""',
    role_event=False,
    logprobs=CompletionLogprobs,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is the same in all that is told of one request.

    logprobs, token_ids, usage, continuous_usage: whether each is asked for; `usage` in a stream's last event.
    """

    shape: Shape
    model: str
    logprobs: bool = False
    token_ids: bool = False
    usage: bool = False
    continuous_usage: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.shape.prefix + self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
        }

    def whole(self, choices: Sequence[CollectedChoice]) -> bytes:
        """The answer that is no stream."""
        usage = total_usage([choice.usage for choice in choices])
        body = {
            **self.envelope(self.shape.whole),
            "choices": [choice.as_json(i) for i, choice in enumerate(choices)],
            "usage": _usage(usage),
        }
        return compact(body).encode()

    def last_event(self, usages: Sequence[pb.Usage]) -> str:
        """The end of a stream, after all choices have ended."""
        if not self.usage:
            return DONE
        body = {**self.envelope(self.shape.event), "choices": [], "usage": _usage(total_usage(usages))}
        return f"data: {compact(body)}\n\n{DONE}"


class ChoiceWriter:
    """The events of one choice. Whatever is the same in all of them is encoded once."""

    def __init__(self, answer: Answer, index: int) -> None:
        shape = answer.shape
        head = compact({**answer.envelope(shape.event), "choices": []}).removesuffix("]}")
        self._answer = answer
        self._head = f'data: {head}{{"index":{index},'
        self._no_usage = ',"usage":null}\n\n' if answer.usage else "}\n\n"
        opening, self._text_end = shape.text_field
        self._text_start = self._head + opening
        self._tail = f'{self._text_end},"logprobs":null,"finish_reason":null}}]{self._no_usage}'
        self._plain = not (answer.logprobs or answer.token_ids or answer.continuous_usage)
        self._logprobs = shape.logprobs()
        self._begun = not shape.role_event

    def events(self, delta: pb.Delta) -> str:
        """What a delta adds to the stream; may be nothing."""
        text = delta.text
        if self._begun and self._plain and not delta.finish_reason:
            return f"{self._text_start}{quoted(text)}{self._tail}" if text else ""
        role = "" if self._begun else self._role_event(delta.usage)
        self._begun = True
        if not (text or delta.finish_reason or (delta.token_ids and not self._plain)):
            return role
        return role + self._full_event(delta)

    def _full_event(self, delta: pb.Delta) -> str:
        answer = self._answer
        logprobs = compact(self._logprobs.of(delta.logprobs)) if answer.logprobs else "null"
        reason = f'"{FINISH_REASONS[delta.finish_reason]}"' if delta.finish_reason else "null"
        text = (
            f"{self._text_start}{quoted(delta.text)}{self._text_end}"
            if delta.text
            else self._head + answer.shape.no_text
        )
        ids = f',"token_ids":{compact(list(delta.token_ids))}' if answer.token_ids else ""
        end = self._usage_field(delta.usage)
        return f'{text},"logprobs":{logprobs},"finish_reason":{reason}{ids}}}]{end}'

    def _role_event(self, usage: pb.Usage) -> str:
        delta = '"delta":{"role":"assistant","content":""}'
        end = self._usage_field(usage)
        return f'{self._head}{delta},"logprobs":null,"finish_reason":null}}]{end}'

    def _usage_field(self, usage: pb.Usage) -> str:
        if not self._answer.continuous_usage:
            return self._no_usage
        return f',"usage":{compact(_usage(usage))}}}\n\n'


class CollectedChoice:
    """One choice of an answer that is told as a whole."""

    def __init__(self, answer: Answer) -> None:
        self.usage = pb.Usage()
        self._answer = answer
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[pb.TokenLogprobs] = []
        self._reason = pb.FINISH_REASON_UNSPECIFIED

    def add(self, delta: pb.Delta) -> None:
        self._texts.append(delta.text)
        self._token_ids += delta.token_ids
        self._logprobs += delta.logprobs
        self._reason = delta.finish_reason
        self.usage = delta.usage

    def as_json(self, index: int) -> dict[str, Any]:
        text = "".join(self._texts)
        shape = self._answer.shape
        choice: dict[str, Any] = {"index": index}
        if shape.role_event:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        choice["logprobs"] = shape.logprobs().of(self._logprobs) if self._answer.logprobs else None
        choice["finish_reason"] = FINISH_REASONS[self._reason]
        if self._answer.token_ids:
            choice["token_ids"] = self._token_ids
        return choice


def total_usage(usages: Sequence[pb.Usage]) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        cached_prompt_tokens=sum(usage.cached_prompt_tokens for usage in usages),
    )


def _usage(usage: pb.Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_prompt_tokens},
    }
