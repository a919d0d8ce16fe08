"""Which parameters there are, and what is said of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from openai.types import completion_create_params as completion
from openai.types.chat import ChatCompletionMessage
from openai.types.chat import completion_create_params as chat
from openai.types.chat.chat_completion_stream_options_param import ChatCompletionStreamOptionsParam
from openai.types.shared_params.response_format_json_schema import JSONSchema, ResponseFormatJSONSchema
from pydantic import BaseModel

from octavo.engine import InvalidRequest
from octavo.service.openai.decoding import RepetitionDetection
from octavo.service.openai.forms import JsonSchema, ResponseFormat, StructuredOutputs
from octavo.service.openai.messages import Message
from octavo.service.openai.parameters import Only, WithoutEffect
from octavo.service.openai.parsing import parse
from octavo.service.openai.requests import ChatCompletionRequest, CompletionRequest, StreamOptions
from tests.service.openai.conftest import USER

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "openai.md"
MODELS = (
    *(ChatCompletionRequest, CompletionRequest, Message, StreamOptions),
    *(ResponseFormat, JsonSchema, StructuredOutputs, RepetitionDetection),
)
CHAT: dict[str, Any] = {"messages": USER}
TEXT: dict[str, Any] = {"prompt": "Hello"}


def marks(model: type[BaseModel]) -> dict[str, Only | WithoutEffect | None]:
    """How each parameter is marked; None for one that is supported."""
    return {
        field.alias or name: next((m for m in field.metadata if isinstance(m, Only | WithoutEffect)), None)
        for name, field in model.model_fields.items()
    }


@pytest.mark.parametrize(
    ("model", "theirs"),
    [
        (ChatCompletionRequest, chat.CompletionCreateParamsStreaming),
        (CompletionRequest, completion.CompletionCreateParamsStreaming),
        (StreamOptions, ChatCompletionStreamOptionsParam),
        (ResponseFormat, ResponseFormatJSONSchema),
        (JsonSchema, JSONSchema),
    ],
)
def test_every_parameter_of_openai_is_known(model: type[BaseModel], theirs: Any) -> None:
    assert get_type_hints(theirs).keys() <= marks(model).keys()


def test_every_field_of_a_reply_of_openai_is_known() -> None:
    assert ChatCompletionMessage.model_fields.keys() <= Message.model_fields.keys()


@pytest.mark.parametrize("model", MODELS)
def test_the_documentation_says_of_each_what_it_is(model: type[BaseModel]) -> None:
    rows = set(re.findall(r"^\| `(\w+)` \| (\w[\w ]*) \|", DOCUMENTATION.read_text(), re.MULTILINE))
    kinds = {Only: "refused", WithoutEffect: "without effect", type(None): "supported"}
    assert {(name, kinds[type(mark)]) for name, mark in marks(model).items()} <= rows


def test_the_documentation_has_no_parameter_that_there_is_not() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (?:supported|without effect|refused) \|", DOCUMENTATION.read_text(), re.MULTILINE
    )
    assert set(rows) == {name for model in MODELS for name in marks(model)}


@pytest.mark.parametrize(("model", "body"), [(ChatCompletionRequest, CHAT), (CompletionRequest, TEXT)])
def test_what_is_refused_may_ask_for_nothing(model: type[BaseModel], body: dict[str, Any]) -> None:
    plain = parse(model, json.dumps(body).encode()).submissions()  # type: ignore[attr-defined]
    for name, mark in marks(model).items():
        if not isinstance(mark, Only):
            continue
        for value in (None, *mark.neutral):
            read = parse(model, json.dumps(body | {name: value}).encode())
            assert read.submissions() == plain  # type: ignore[attr-defined]
        with pytest.raises(InvalidRequest, match=f"{name}: is not supported yet; leave it out"):
            parse(model, json.dumps(body | {name: {"some": "thing"}}).encode())


@pytest.mark.parametrize(("model", "body"), [(ChatCompletionRequest, CHAT), (CompletionRequest, TEXT)])
def test_null_is_the_same_as_nothing(model: type[BaseModel], body: dict[str, Any]) -> None:
    plain = parse(model, json.dumps(body).encode())
    nulls = {name: None for name in model.model_fields if name not in body}
    assert parse(model, json.dumps(body | nulls).encode()) == plain


def test_the_more_specific_key_is_the_session() -> None:
    def session(**given: str) -> str:
        return parse(ChatCompletionRequest, json.dumps(CHAT | given).encode()).session

    assert session() == ""
    assert session(user="ann") == "ann"
    assert session(user="ann", prompt_cache_key="thread-1") == "thread-1"


@pytest.mark.parametrize(("given", "sent"), [(-1, 2**64 - 1), (-(2**63), 2**63), (5, 5), (2**64 - 1,) * 2])
def test_a_signed_seed_has_an_unsigned_counterpart(given: int, sent: int) -> None:
    read = parse(ChatCompletionRequest, json.dumps(CHAT | {"seed": given}).encode())
    assert read.sampling().seed == sent


def test_many_mistakes_are_told_up_to_a_number() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(ChatCompletionRequest, json.dumps({f"k{i}": 0 for i in range(100)}).encode())
    assert len(caught.value.violations) == 10
