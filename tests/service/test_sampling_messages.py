"""Sampling parameters from the engine's names to the protocol's message and back."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.engine import InvalidRequest, SamplingParams
from octavo.engine.combinations import STRUCTURES
from octavo.service.rpc.sampling import message_of, values_of
from octavo.service.rpc.wire import parse
from octavo.v1 import inference_pb2 as pb

INTEGERS = st.integers(-(2**31), 2**31 - 1)
NUMBERS = st.floats(allow_nan=False, width=64)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
TOKENS = st.integers(0, 2**32 - 1)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(
        (
            *("n", "best_of", "beam_width", "max_tokens", "min_tokens", "top_k", "logprobs"),
            *("repetition_pattern", "repetition_count", "thinking_budget", "prompt_logprobs"),
        ),
        INTEGERS,
    ),
    **dict.fromkeys(("length_penalty", "temperature", "top_p", "min_p", "repetition_penalty"), NUMBERS),
    **dict.fromkeys(("frequency_penalty", "presence_penalty"), NUMBERS),
    **dict.fromkeys(("include_stop", "ignore_eos", "json_object", "echo"), st.booleans()),
    **dict.fromkeys(("json_schema", "regex", "grammar"), TEXTS),
    **dict.fromkeys(("bad_words", "stop"), st.lists(TEXTS, max_size=3).map(tuple)),
    **dict.fromkeys(("allowed_token_ids", "stop_token_ids"), st.lists(TOKENS, max_size=3).map(tuple)),
    "choice": st.lists(TEXTS, min_size=1, max_size=3).map(tuple),
    "early_stopping": st.sampled_from(["yes", "no", "never"]),
    "seed": st.integers(0, 2**64 - 1),
    "logit_bias": st.dictionaries(TOKENS, NUMBERS, max_size=3),
}


def test_the_message_has_every_parameter_under_its_name() -> None:
    fields = {field.name for field in dataclasses.fields(SamplingParams)}
    assert fields == set(pb.SamplingParams.DESCRIPTOR.fields_by_name) == set(VALUES)


@given(st.data())
def test_a_message_says_what_it_was_made_of(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(STRUCTURES))
    names = [name for name in VALUES if name not in STRUCTURES or name == form]
    given = {
        name: data.draw(VALUES[name]) for name in data.draw(st.lists(st.sampled_from(names), unique=True))
    }
    message = parse(pb.SamplingParams, message_of(given).SerializeToString())
    assert SamplingParams(**values_of(message)) == SamplingParams(**given)


def test_an_empty_message_is_the_engines_defaults() -> None:
    assert SamplingParams(**values_of(pb.SamplingParams())) == SamplingParams()
    assert message_of(dict.fromkeys(VALUES)) == pb.SamplingParams()


def test_an_enum_left_open_is_the_engines_default() -> None:
    assert values_of(pb.SamplingParams(early_stopping=pb.EARLY_STOPPING_UNSPECIFIED)) == {}
    assert SamplingParams().early_stopping == "no"


def test_a_choice_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="choice: must not be empty"):
        values_of(pb.SamplingParams(choice=pb.Choice()))


def test_there_is_room_for_one_form() -> None:
    with pytest.raises(
        InvalidRequest, match="regex: must not be set with json_object: an output has one form"
    ):
        message_of({"regex": "a*", "json_object": True})


def test_a_number_out_of_range_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="out of range"):
        message_of({"n": 2**31})
