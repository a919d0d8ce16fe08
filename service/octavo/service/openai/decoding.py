"""Parameters of decoding, as OpenAI and vLLM name them, and what they are in the protocol."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import model_validator

from octavo.engine import InvalidRequest, Violation
from octavo.service.openai.forms import Form, ResponseFormat, SchemaText, StructuredOutputs, only_form
from octavo.service.openai.parameters import (
    Biases,
    EarlyStopping,
    Int32,
    Only,
    Seed,
    Strict,
    Strings,
    TokenIds,
)
from octavo.service.rpc.sampling import message_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from octavo.v1 import inference_pb2 as pb

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
    "n",
    "length_penalty",
    "early_stopping",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
)
"""Parameters that the protocol has under the same name, with the same meaning and rules."""


class RepetitionDetection(Strict):
    max_pattern_size: Int32 | None = None
    min_count: Int32 | None = None
    min_pattern_size: Annotated[object, Only(0, 1)] = None

    @property
    def is_off(self) -> bool:
        return not (self.max_pattern_size or self.min_count)


class DecodingParameters(Strict):
    """What says how tokens are chosen, when outputs end and what is told of them."""

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
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    repetition_detection: RepetitionDetection | None = None
    thinking_token_budget: Int32 | None = None
    thinking_budget: Int32 | None = None

    n: Int32 | None = None
    best_of: Int32 | None = None
    use_beam_search: bool | None = None
    beam_width: Int32 | None = None
    length_penalty: float | None = None
    early_stopping: EarlyStopping | None = None

    logit_bias: Biases | None = None
    allowed_token_ids: TokenIds | None = None
    bad_words: Strings | None = None

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: SchemaText | None = None
    guided_regex: str | None = None
    guided_choice: Strings | None = None
    guided_grammar: str | None = None

    prompt_logprobs: Int32 | None = None
    include_reasoning: bool | None = None

    @model_validator(mode="after")
    def _parameters_of_one_thing_agree(self) -> DecodingParameters:
        budgets = {self.thinking_token_budget, self.thinking_budget} - {None}
        if len(budgets) > 1:
            rule = f"must be left out, or be thinking_token_budget, {self.thinking_token_budget}"
            raise InvalidRequest(Violation("thinking_budget", self.thinking_budget, rule))
        searches = {self.use_beam_search, None if self.beam_width is None else self.beam_width > 0}
        if {True, False} <= searches:
            rule = f"must be left out, or go with use_beam_search, {json.dumps(self.use_beam_search)}"
            raise InvalidRequest(Violation("beam_width", self.beam_width, rule))
        only_form(self._forms())
        return self

    def _forms(self) -> Iterator[Form]:
        for parameter in (self.response_format, self.structured_outputs):
            if parameter is not None:
                yield from parameter.forms()
        yield Form("json_schema", self.guided_json, "guided_json")
        for name in ("regex", "choice", "grammar"):
            yield Form(name, getattr(self, f"guided_{name}"), f"guided_{name}")

    @property
    def num_choices(self) -> int:
        """For each prompt."""
        return 1 if self.n is None else self.n

    def sampling(self) -> pb.SamplingParams:
        values: dict[str, Any] = {name: getattr(self, name) for name in SAME_NAMES}
        values |= {name: value for name, (_, value) in self._renamed.items()}
        values["max_tokens"] = self.limit
        values["logprobs"] = self.num_logprobs
        if self.top_k is not None:
            values["top_k"] = 0 if self.top_k == -1 else self.top_k  # vLLM's name for all
        if self.seed is not None:
            values["seed"] = self.seed % 2**64
        return message_of(values)

    @property
    def _renamed(self) -> dict[str, tuple[str, Any]]:
        """What the protocol has under another name, by that: the parameter that says it, and its value."""
        found: dict[str, tuple[str, Any]] = {
            "include_stop": ("include_stop_str_in_output", self.include_stop_str_in_output),
            "prompt_logprobs": ("prompt_logprobs", self.prompt_logprobs),
            "beam_width": ("beam_width", self.beam_width),
            "best_of": ("best_of", self.best_of),
        }
        if self.use_beam_search and self.beam_width is None:
            # As vLLM has it: as many beams as outputs.
            width = "n" if self.best_of is None else "best_of"
            found["beam_width"] = (width, getattr(self, width) or 1)
            found["best_of"] = ("best_of", None)
        budget = "thinking_budget" if self.thinking_token_budget is None else "thinking_token_budget"
        if getattr(self, budget) != -1:  # vLLM's name for no limit
            found["thinking_budget"] = (budget, getattr(self, budget))
        if (repetition := self.repetition_detection) is not None and not repetition.is_off:
            at = "repetition_detection"
            found["repetition_pattern"] = (f"{at}.max_pattern_size", repetition.max_pattern_size)
            found["repetition_count"] = (f"{at}.min_count", repetition.min_count or 0)
        if (form := only_form(self._forms())) is not None:
            found[form.field] = (form.parameter, form.value)
        return found

    @property
    def limit(self) -> int | None:
        """Most tokens of output; None for as many as the context takes."""
        raise NotImplementedError

    @property
    def num_logprobs(self) -> int | None:
        raise NotImplementedError

    @property
    def echoes_logprobs(self) -> bool:
        """Whether the log-probabilities of a choice begin with its prompt's."""
        return False

    @property
    def names(self) -> dict[str, str]:
        """What the client calls a field of SamplingParams, where that is not its name."""
        return {field: parameter for field, (parameter, _) in self._renamed.items()}
