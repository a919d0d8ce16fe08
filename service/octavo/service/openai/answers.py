"""Answers as JSON: the events of a stream, which cost as little as can be, and whole ones."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Any

from octavo.service.openai.logprobs import ChatLogprobs, CompletionLogprobs, of_prompt
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from octavo.service.openai.logprobs import LogprobShape

FINISH_REASONS = {
    pb.FINISH_REASON_EOS: "stop",
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_REPETITION: "repetition",  # vLLM's
}
compact = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
DONE = "data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Shape:
    """In what the answers of the two kinds of completion differ.

    text_field: how an event's text is put into its choice, around the text itself.
    is_chat: whether text and reasoning are within a message, whose role is told first.
    """

    prefix: str
    whole: str
    event: str
    text_field: tuple[str, str]
    is_chat: bool
    logprobs: Callable[[], LogprobShape]

    def said(self, text: str, reasoning: str) -> str:
        """The fields of an event's choice that have what is new in it."""
        fields = {"content" if self.is_chat else "text": text} if text or not self.is_chat else {}
        if reasoning:
            fields |= of_reasoning(reasoning)
        told = compact(fields)
        return f'"delta":{told}' if self.is_chat else told[1:-1]


def of_reasoning(reasoning: str) -> dict[str, str]:
    """Under vLLM's name, and under the one that it had before and others have still."""
    return {"reasoning": reasoning, "reasoning_content": reasoning}


CHAT = Shape(
    prefix="chatcmpl-",
    whole="chat.completion",
    event="chat.completion.chunk",
    text_field=('"delta":{"content":', "}"),
    is_chat=True,
    logprobs=ChatLogprobs,
)
COMPLETION = Shape(
    prefix="cmpl-",
    whole="text_completion",
    event="text_completion",
    text_field=('"text":', ""),
    is_chat=False,
    logprobs=CompletionLogprobs,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is the same in all that is told of one request.

    logprobs, prompt_logprobs, token_ids, reasoning, usage, continuous_usage: whether each is asked for;
        `usage` in a stream's last event.
    """

    shape: Shape
    model: str
    logprobs: bool = False
    prompt_logprobs: bool = False
    token_ids: bool = False
    reasoning: bool = True
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

    def whole(self, choices: Mapping[int, CollectedChoice], usages: Sequence[pb.Usage]) -> bytes:
        """The answer that is no stream.

        choices: by their index. usages: one for each prompt.
        """
        told = [choices[index].as_json(index) for index in sorted(choices)]
        body = {**self.envelope(self.shape.whole), "choices": told, "usage": _usage(total_usage(usages))}
        if self.prompt_logprobs:
            # A chat has one prompt; of several prompts each has as many choices.
            per_prompt = len(told) // len(usages)
            of_prompts = [choices[first].prompt_logprobs for first in range(0, len(told), per_prompt)]
            if self.shape.is_chat:
                body["prompt_logprobs"] = of_prompts[0]
            else:
                for choice in told:
                    choice["prompt_logprobs"] = of_prompts[choice["index"] // per_prompt]
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
        self._begun = not shape.is_chat

    def events(self, delta: pb.Delta) -> str:
        """What a delta adds to the stream; may be nothing."""
        text = delta.text
        reasoning = delta.reasoning if self._answer.reasoning else ""
        if self._begun and self._plain and not (delta.finish_reason or reasoning):
            return f"{self._text_start}{quoted(text)}{self._tail}" if text else ""
        role = "" if self._begun else self._role_event(delta.usage)
        self._begun = True
        if not (text or reasoning or delta.finish_reason or (delta.token_ids and not self._plain)):
            return role
        return role + self._full_event(delta, reasoning)

    def _full_event(self, delta: pb.Delta, reasoning: str) -> str:
        answer = self._answer
        logprobs = compact(self._logprobs.of(delta.logprobs)) if answer.logprobs else "null"
        reason = f'"{FINISH_REASONS[delta.finish_reason]}"' if delta.finish_reason else "null"
        said = answer.shape.said(delta.text, reasoning)
        ids = f',"token_ids":{compact(list(delta.token_ids))}' if answer.token_ids else ""
        score = f',"score":{compact(delta.score)}' if delta.HasField("score") else ""
        end = self._usage_field(delta.usage)
        return f'{self._head}{said},"logprobs":{logprobs},"finish_reason":{reason}{ids}{score}}}]{end}'

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
        self.prompt_logprobs: list[dict[str, Any] | None] = []
        self._answer = answer
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._score: float | None = None
        self._token_ids: list[int] = []
        self._logprobs: list[pb.TokenLogprobs] = []
        self._reason = pb.FINISH_REASON_UNSPECIFIED

    def add(self, delta: pb.Delta) -> None:
        self._texts.append(delta.text)
        self._reasoning.append(delta.reasoning)
        self._token_ids += delta.token_ids
        self._logprobs += delta.logprobs
        self._reason = delta.finish_reason
        if delta.HasField("score"):
            self._score = delta.score
        if self._answer.prompt_logprobs and not self.prompt_logprobs:
            self.prompt_logprobs = of_prompt(delta.prompt_logprobs)

    def as_json(self, index: int) -> dict[str, Any]:
        text, reasoning = "".join(self._texts), "".join(self._reasoning)
        shape = self._answer.shape
        thought = of_reasoning(reasoning) if reasoning and self._answer.reasoning else {}
        choice: dict[str, Any] = {"index": index}
        if shape.is_chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None, **thought}
        else:
            choice |= {"text": text, **thought}
        choice["logprobs"] = shape.logprobs().of(self._logprobs) if self._answer.logprobs else None
        choice["finish_reason"] = FINISH_REASONS[self._reason]
        if self._answer.token_ids:
            choice["token_ids"] = self._token_ids
        if self._score is not None:
            choice["score"] = self._score
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
