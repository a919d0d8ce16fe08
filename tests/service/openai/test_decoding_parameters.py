"""What OpenAI's and vLLM's parameters of decoding are in the protocol."""

from __future__ import annotations

import json
from typing import Any

import pytest

from octavo.engine import InvalidRequest
from octavo.service.openai.parsing import parse
from octavo.service.openai.requests import ChatCompletionRequest, CompletionRequest
from octavo.service.rpc.sampling import message_of, values_of

SCHEMA = {"type": "object", "properties": {"b": {}, "a": {}}}
SCHEMA_TEXT = '{"type": "object", "properties": {"b": {}, "a": {}}}'


def completion(**given: Any) -> CompletionRequest:
    return parse(CompletionRequest, json.dumps({"prompt": "Hello", "max_tokens": 1} | given).encode())


def sampling(**given: Any) -> dict[str, Any]:
    """What the protocol has beside the one token that is asked for."""
    values = values_of(completion(**given).sampling())
    assert values.pop("max_tokens") == 1
    return values


SAID: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"n": 3, "best_of": 5}, {"n": 3, "best_of": 5}),
    ({"use_beam_search": True}, {"beam_width": 1}),
    ({"use_beam_search": True, "n": 3}, {"n": 3, "beam_width": 3}),
    ({"use_beam_search": True, "n": 2, "best_of": 4}, {"n": 2, "beam_width": 4}),
    ({"use_beam_search": True, "n": 2, "beam_width": 4}, {"n": 2, "beam_width": 4}),
    ({"use_beam_search": False, "n": 2, "best_of": 4}, {"n": 2, "best_of": 4}),
    ({"beam_width": 4, "length_penalty": 0.5}, {"beam_width": 4, "length_penalty": 0.5}),
    ({"early_stopping": True}, {"early_stopping": "yes"}),
    ({"early_stopping": False}, {"early_stopping": "no"}),
    ({"early_stopping": "never"}, {"early_stopping": "never"}),
    ({"logit_bias": {"5": -100, "0": 1.5}}, {"logit_bias": {5: -100, 0: 1.5}}),
    ({"logit_bias": {}}, {}),
    ({"allowed_token_ids": [3, 1]}, {"allowed_token_ids": (3, 1)}),
    ({"bad_words": ["owl"]}, {"bad_words": ("owl",)}),
    ({"stop": "x", "include_stop_str_in_output": True}, {"stop": ("x",), "include_stop": True}),
    (
        {"repetition_detection": {"max_pattern_size": 5, "min_count": 3, "min_pattern_size": 1}},
        {"repetition_pattern": 5, "repetition_count": 3},
    ),
    ({"repetition_detection": {"max_pattern_size": 0, "min_count": 0}}, {}),
    ({"thinking_token_budget": 0}, {"thinking_budget": 0}),
    ({"thinking_token_budget": -1}, {}),
    ({"thinking_budget": 7}, {"thinking_budget": 7}),
    ({"thinking_budget": 7, "thinking_token_budget": 7}, {"thinking_budget": 7}),
    ({"prompt_logprobs": 2}, {"prompt_logprobs": 2}),
    ({"echo": True}, {"echo": True}),
    ({"echo": True, "logprobs": 2}, {"echo": True, "logprobs": 2, "prompt_logprobs": 2}),
    ({"response_format": {"type": "text"}}, {}),
    ({"response_format": {"type": "json_object"}}, {"json_object": True}),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        {"json_schema": SCHEMA_TEXT},
    ),
    ({"structured_outputs": {"json": SCHEMA}}, {"json_schema": SCHEMA_TEXT}),
    ({"structured_outputs": {"json": SCHEMA_TEXT}}, {"json_schema": SCHEMA_TEXT}),
    ({"structured_outputs": {"json_object": True}}, {"json_object": True}),
    ({"structured_outputs": {"json_object": False}}, {}),
    ({"structured_outputs": {"regex": "a*"}}, {"regex": "a*"}),
    ({"structured_outputs": {"choice": ["a", "b"]}}, {"choice": ("a", "b")}),
    ({"structured_outputs": {"grammar": 'start: "a"'}}, {"grammar": 'start: "a"'}),
    ({"guided_json": SCHEMA}, {"json_schema": SCHEMA_TEXT}),
    ({"guided_json": True}, {"json_schema": "true"}),
    ({"guided_regex": "a*"}, {"regex": "a*"}),
    ({"guided_choice": ["a", "b"]}, {"choice": ("a", "b")}),
    ({"guided_grammar": 'start: "a"'}, {"grammar": 'start: "a"'}),
]


@pytest.mark.parametrize(("given", "expected"), SAID, ids=[json.dumps(given) for given, _ in SAID])
def test_what_a_client_says_is_what_the_protocol_has(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sampling(**given) == expected


FORMS: list[tuple[dict[str, Any], str, str]] = [
    (
        {"response_format": {"type": "json_object"}, "guided_regex": "a"},
        "guided_regex",
        "response_format.type",
    ),
    (
        {"structured_outputs": {"json": {}, "choice": ["a"]}},
        "structured_outputs.choice",
        "structured_outputs.json",
    ),
    ({"guided_json": {}, "guided_grammar": "x"}, "guided_grammar", "guided_json"),
]


@pytest.mark.parametrize(("given", "second", "first"), FORMS)
def test_an_output_has_one_form(given: dict[str, Any], second: str, first: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        completion(**given)
    [violation] = caught.value.violations
    assert violation.field == second
    assert violation.rule == f"must not be set with {first}: an output has one form"


NAMES: list[tuple[dict[str, Any], str, str]] = [
    ({}, "sampling.top_p", "top_p"),
    ({"stop": "x"}, "sampling.include_stop", "include_stop_str_in_output"),
    ({"beam_width": 4}, "sampling.beam_width", "beam_width"),
    ({"use_beam_search": True, "n": 4}, "sampling.beam_width", "n"),
    ({"use_beam_search": True, "best_of": 4}, "sampling.beam_width", "best_of"),
    ({"thinking_budget": 4}, "sampling.thinking_budget", "thinking_budget"),
    ({"thinking_token_budget": 4}, "sampling.thinking_budget", "thinking_token_budget"),
    ({"guided_json": {}}, "sampling.json_schema", "guided_json"),
    ({"structured_outputs": {"json": {}}}, "sampling.json_schema", "structured_outputs.json"),
    ({"response_format": {"type": "json_object"}}, "sampling.json_object", "response_format.type"),
    ({"echo": True, "logprobs": 3}, "sampling.prompt_logprobs", "logprobs"),
    ({"prompt_logprobs": 3}, "sampling.prompt_logprobs", "prompt_logprobs"),
    (
        {"repetition_detection": {"max_pattern_size": 3}},
        "sampling.repetition_count",
        "repetition_detection.min_count",
    ),
]


@pytest.mark.parametrize(("given", "field", "name"), NAMES)
def test_a_refused_field_has_the_name_that_the_client_gave_it(
    given: dict[str, Any], field: str, name: str
) -> None:
    assert completion(**given).parameter(field, 0) == name


def test_a_chats_logprobs_are_called_as_they_were_asked_for() -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "logprobs": True}
    assert (
        parse(ChatCompletionRequest, json.dumps(body).encode()).parameter("sampling.logprobs", 0)
        == "logprobs"
    )
    request = parse(ChatCompletionRequest, json.dumps(body | {"top_logprobs": 2}).encode())
    assert request.parameter("sampling.logprobs", 0) == "top_logprobs"


def test_each_prompt_is_one_submission_whatever_its_choices() -> None:
    request = completion(prompt=["a", "b"], n=3)
    assert len(request.submissions()) == 2
    assert request.num_choices == 3
    assert all(each.sampling == message_of({"n": 3, "max_tokens": 1}) for each in request.submissions())
