"""The requests of the OpenAI API, with the parameters that vLLM adds, and what each is in the protocol."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, PlainValidator, model_validator

from octavo.engine import InvalidRequest, Violation
from octavo.service.openai.decoding import DecodingParameters
from octavo.service.openai.messages import Message  # noqa: TC001, pydantic reads the annotation
from octavo.service.openai.parameters import Int32, Only, Strict, Unsupported, WithoutEffect
from octavo.service.openai.prompts import Entry, entries
from octavo.v1 import inference_pb2 as pb

DEFAULT_MAX_TOKENS = 16
"""Of /v1/completions, as in the OpenAI API. A chat's reply may take all of the context."""


class StreamOptions(Strict):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Annotated[object, Only(False)] = None


class CompletionParameters(DecodingParameters):
    """What both kinds of completion take. Null is the same as leaving out."""

    model: str | None = None

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: Int32 | None = None
    return_token_ids: bool | None = None

    # These say which pod is likely to have the beginning of the prompt in its cache.
    user: str | None = None
    prompt_cache_key: str | None = None

    metadata: Annotated[dict[str, str] | None, WithoutEffect("for the client's own records")] = None
    safety_identifier: Annotated[str | None, WithoutEffect("tells a provider about the end user")] = None

    service_tier: Annotated[object, Only("auto", "default")] = None
    # vLLM's.
    cache_salt: Unsupported = None
    kv_transfer_params: Unsupported = None
    logits_processors: Annotated[object, Only([])] = None
    request_id: Unsupported = None
    return_tokens_as_token_ids: Annotated[object, Only(False)] = None
    skip_special_tokens: Annotated[object, Only(True)] = None
    spaces_between_special_tokens: Annotated[object, Only(True)] = None
    truncate_prompt_tokens: Unsupported = None
    vllm_xargs: Annotated[object, Only({})] = None

    @model_validator(mode="after")
    def _options_are_for_streams(self) -> CompletionParameters:
        if self.stream_options is not None and not self.stream:
            rule = "must be left out unless stream is true"
            raise InvalidRequest(Violation("stream_options", "an object", rule))
        if self.prompt_logprobs is not None and self.stream:
            rule = "must be left out of a stream"
            raise InvalidRequest(Violation("prompt_logprobs", self.prompt_logprobs, rule))
        return self

    @property
    def session(self) -> str:
        """What requests that begin alike have in common, if the client says so."""
        return self.prompt_cache_key or self.user or ""

    @property
    def options(self) -> StreamOptions:
        return self.stream_options or StreamOptions()

    def prompts(self) -> list[pb.Prompt]:
        """Each has num_choices choices in the answer."""
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
        name = field.removeprefix("sampling.")
        return self.names.get(name, name)


class CompletionRequest(CompletionParameters):
    """POST /v1/completions."""

    prompt: Annotated[tuple[Entry, ...], PlainValidator(entries)]
    logprobs: Int32 | None = None
    echo: bool | None = None
    suffix: Annotated[object, Only("")] = None
    add_special_tokens: Annotated[object, Only(True)] = None  # vLLM's

    @property
    def limit(self) -> int:
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @model_validator(mode="after")
    def _an_echo_has_the_same_logprobs(self) -> CompletionRequest:
        if self.echoes_logprobs and self.prompt_logprobs not in (None, self.logprobs):
            rule = f"must be left out, or be logprobs, {self.logprobs}, with echo"
            raise InvalidRequest(Violation("prompt_logprobs", self.prompt_logprobs, rule))
        return self

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs

    @property
    def echoes_logprobs(self) -> bool:
        return bool(self.echo) and self.logprobs is not None

    @property
    def _renamed(self) -> dict[str, tuple[str, Any]]:
        found = super()._renamed | {"echo": ("echo", self.echo)}
        if self.echoes_logprobs:
            found["prompt_logprobs"] = ("logprobs", self.logprobs)
        return found

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
        if field == "sampling.logprobs" and self.top_logprobs is not None:
            return "top_logprobs"
        if field.startswith("prompt"):
            return re.sub(r"^prompt(\.chat)?\.?", "", field) or "messages"
        return super().parameter(field, index)
