"""Sampling parameters: every rule, by the name of the field that breaks it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from octavo.engine.errors import InvalidRequest
from octavo.engine.params import SamplingParams

BAD: list[tuple[str, Any]] = [
    ("max_tokens", 0),
    ("min_tokens", -1),
    ("temperature", -0.1),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("top_k", -1),
    ("top_p", 0.0),
    ("top_p", 1.1),
    ("top_p", math.nan),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("seed", -1),
    ("seed", 2**64),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", math.nan),
    ("frequency_penalty", 2.1),
    ("presence_penalty", -2.1),
    ("stop", ("x",) * 17),
    ("stop", ("",)),
    ("stop", ("x" * 257,)),
    ("stop_token_ids", (100,)),
    ("stop_token_ids", (-1,)),
    ("logprobs", -1),
    ("logprobs", 21),
]


@pytest.mark.parametrize(("field", "value"), BAD, ids=[f"{field}={value!r:.12}" for field, value in BAD])
def test_a_bad_value_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SamplingParams(**{field: value}).validate(vocab_size=100)  # type: ignore[arg-type]
    [violation] = caught.value.violations
    assert (violation.field, violation.value) == (field, value)
    assert violation.rule in str(caught.value)


def test_all_broken_rules_are_told_at_once() -> None:
    found = SamplingParams(temperature=-1, top_p=2, min_tokens=5, max_tokens=3).violations(100)
    assert [violation.field for violation in found] == ["min_tokens", "temperature", "top_p"]


def test_the_defaults_and_the_edges_are_fine() -> None:
    assert not SamplingParams().violations(100)
    edges = SamplingParams(temperature=0, top_p=1, min_p=1, seed=2**64 - 1, logprobs=0, stop_token_ids=(99,))
    assert not edges.violations(100)
