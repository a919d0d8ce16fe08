"""The requests of the OpenAI API, with the parameters that vLLM adds, and what each is in the protocol."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, PlainValidator, model_validator

from octavo.engine import InvalidRequest, Violation
from octavo.service.openai.messages import Message
from octavo.service.openai.parameters import (
    Int32,
    Only,
    Seed,
    Strict,
    Strings,
    TokenIds,
    Unsupported,
    WithoutEffect,
)
from octavo.service.openai.prompts import Entry, entries
from octavo.v1 import inference_pb2 as pb

DEFAULT_MAX_TOKENS = 16
"""Of /v1/completions, as in the OpenAI API. A chat's reply may take all of the context."""

SAME_NAMES = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "min_tokens",
    "stop",
    "stop_token_ids",
    "ignore_eos",
)
"""Parameters that the protocol has under the same name, with the same meaning and rules."""


class StreamOptions(Strict):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Annotated[object, Only(False)] = None


class CompletionParameters(Strict):
    """What both kinds of completion take. Null is the same as leaving out."""

    model: str | None = None

    temperature: float | None = None
    top_p: float | None = None
    top_k: Int32 | None = None
    min_p: float | None = None
    seed: Seed | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None

    max_tokens: Int32 | None = None
    min_tokens: Int32 | None = None
    stop: Strings | None = None
    stop_token_ids: TokenIds | None = None
    ignore_eos: bool | None = None

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: Int32 | None = None
    return_token_ids: bool | None = None

    # These say which pod is likely to have the beginning of the prompt in its cache.
    user: str | None = None
    prompt_cache_key: str | None = None

    metadata: Annotated[dict[str, str] | None, WithoutEffect("for the client's own records")] = None
    safety_identifier: Annotated[str | None, WithoutEffect("tells a provider about the end user")] = None

    n: Annotated[object, Only(1)] = None
    logit_bias: Annotated[object, Only({})] = None
    service_tier: Annotated[object, Only("auto", "default")] = None
    response_format: Annotated[object, Only({"type": "text"})] = None
    # vLLM's.
    allowed_token_ids: Annotated[object, Only([])] = None
    bad_words: Annotated[object, Only([])] = None
    cache_salt: Unsupported = None
    guided_choice: Unsupported = None
    guided_grammar: Unsupported = None
    guided_json: Unsupported = None
    guided_regex: Unsupported = None
    include_stop_str_in_output: Annotated[object, Only(False)] = None
    kv_transfer_params: Unsupported = None
    length_penalty: Annotated[object, Only(1, 1.0)] = None
    logits_processors: Annotated[object, Only([])] = None
    prompt_logprobs: Unsupported = None
    request_id: Unsupported = None
    return_tokens_as_token_ids: Annotated[object, Only(False)] = None
    skip_special_tokens: Annotated[object, Only(True)] = None
    spaces_between_special_tokens: Annotated[object, Only(True)] = None
    structured_outputs: Unsupported = None
    truncate_prompt_tokens: Unsupported = None
    use_beam_search: Annotated[object, Only(False)] = None
    vllm_xargs: Annotated[object, Only({})] = None

    @model_validator(mode="after")
    def _options_are_for_streams(self) -> CompletionParameters:
        if self.stream_options is not None and not self.stream:
            rule = "must be left out unless stream is true"
            raise InvalidRequest(Violation("stream_options", "an object", rule))
        return self

    @property
    def session(self) -> str:
        """What requests that begin alike have in common, if the client says so."""
        return self.prompt_cache_key or self.user or ""

    @property
    def options(self) -> StreamOptions:
        return self.stream_options or StreamOptions()

    def sampling(self) -> pb.SamplingParams:
        values: dict[str, Any] = {
            name: value for name in SAME_NAMES if (value := getattr(self, name)) is not None
        }
        if self.top_k is not None:
            values["top_k"] = 0 if self.top_k == -1 else self.top_k  # vLLM's name for all
        if self.seed is not None:
            values["seed"] = self.seed % 2**64
        return pb.SamplingParams(**values, max_tokens=self.limit, logprobs=self.num_logprobs)

    @property
    def limit(self) -> int | None:
        """Most tokens of output; None for as many as the context takes."""
        raise NotImplementedError

    @property
    def num_logprobs(self) -> int | None:
        raise NotImplementedError

    def prompts(self) -> list[pb.Prompt]:
        """One for each choice of the answer."""
        raise NotImplementedError

    def submissions(self) -> list[pb.GenerateRequest]:
        sampling = self.sampling()
        return [
            pb.GenerateRequest(
                model=self.model or "", prompt=prompt, sampling=sampling, priority=self.priority or 0
            )
            for prompt in self.prompts()
        ]

    def parameter(self, field: str, index: int) -> str:
        """The name here of a field of the submission with this index."""
        return field.removeprefix("sampling.")


class CompletionRequest(CompletionParameters):
    """POST /v1/completions."""

    prompt: Annotated[tuple[Entry, ...], PlainValidator(entries)]
    logprobs: Int32 | None = None
    best_of: Annotated[object, Only(1)] = None
    echo: Annotated[object, Only(False)] = None
    suffix: Annotated[object, Only("")] = None
    add_special_tokens: Annotated[object, Only(True)] = None  # vLLM's

    @property
    def limit(self) -> int:
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs

    def prompts(self) -> list[pb.Prompt]:
        return [entry.to_proto() for entry in self.prompt]

    def parameter(self, field: str, index: int) -> str:
        if field.startswith("prompt"):
            return self.prompt[index].path + re.sub(r"^prompt(\.text|\.token_ids\.ids)?", "", field)
        return super().parameter(field, index)


class ChatCompletionRequest(CompletionParameters):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(fail_fast=True)]
    max_completion_tokens: Int32 | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    audio: Unsupported = None
    function_call: Annotated[object, Only("none", "auto")] = None
    functions: Annotated[object, Only([])] = None
    modalities: Annotated[object, Only(["text"])] = None
    moderation: Unsupported = None
    parallel_tool_calls: Annotated[bool | None, WithoutEffect("there are no tools that could be called")] = (
        None
    )
    prediction: Unsupported = None
    prompt_cache_options: Annotated[object, Only({}, {"mode": "implicit"})] = None
    prompt_cache_retention: Annotated[object, Only("in_memory")] = None
    reasoning_effort: Unsupported = None
    store: Annotated[object, Only(False)] = None
    tool_choice: Annotated[object, Only("none", "auto")] = None
    tools: Annotated[object, Only([])] = None
    verbosity: Annotated[object, Only("medium")] = None
    web_search_options: Unsupported = None
    # vLLM's.
    add_special_tokens: Annotated[object, Only(False)] = None
    add_generation_prompt: Annotated[object, Only(True)] = None
    chat_template: Unsupported = None
    chat_template_kwargs: Annotated[object, Only({})] = None
    continue_final_message: Annotated[object, Only(False)] = None
    documents: Annotated[object, Only([])] = None
    echo: Annotated[object, Only(False)] = None
    include_reasoning: Annotated[object, Only()] = None
    mm_processor_kwargs: Annotated[object, Only({})] = None

    @model_validator(mode="after")
    def _one_says_what_the_other_does(self) -> ChatCompletionRequest:
        if self.top_logprobs is not None and not self.logprobs:
            rule = "must be left out unless logprobs is true"
            raise InvalidRequest(Violation("top_logprobs", self.top_logprobs, rule))
        limits = {self.max_completion_tokens, self.max_tokens} - {None}
        if len(limits) > 1:
            rule = f"must be left out, or be max_completion_tokens, {self.max_completion_tokens}"
            raise InvalidRequest(Violation("max_tokens", self.max_tokens, rule))
        return self

    @property
    def limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def prompts(self) -> list[pb.Prompt]:
        return [pb.Prompt(chat=pb.Chat(messages=[message.to_proto() for message in self.messages]))]

    def parameter(self, field: str, index: int) -> str:
        if field == "sampling.max_tokens" and self.max_completion_tokens is not None:
            return "max_completion_tokens"
        if field == "sampling.logprobs":
            return "top_logprobs"
        if field.startswith("prompt"):
            return re.sub(r"^prompt(\.chat)?\.?", "", field) or "messages"
        return super().parameter(field, index)
