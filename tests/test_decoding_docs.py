"""The table of docs/decoding.md says what the code does: names, defaults, ranges, what does not combine."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from pydantic import BaseModel

from octavo.engine import SamplingParams
from octavo.engine.combinations import CLASHES, NEEDS
from octavo.service.openai.decoding import DecodingParameters
from octavo.service.openai.parameters import Only
from octavo.service.openai.requests import ChatCompletionRequest, CompletionRequest
from octavo.service.options import sampling_settings
from octavo.v1 import inference_pb2 as pb

DOCUMENTATION = (Path(__file__).parents[1] / "docs" / "decoding.md").read_text(encoding="utf-8")
FIELDS = [field.name for field in dataclasses.fields(SamplingParams)]
DEFAULTS = SamplingParams()
NOT_OF_SAMPLING = {"include_reasoning"}
"""Parameters of OpenAI's and vLLM's that only say how an answer is told."""


class Row(NamedTuple):
    parameter: str
    flag: str
    openai: str
    meaning: str
    default: str
    range: str
    not_with: str


def rows() -> dict[str, Row]:
    cells = (line.strip("|").split("|") for line in DOCUMENTATION.splitlines() if line.startswith("| `"))
    made = (Row(*(cell.strip() for cell in each)) for each in cells)
    return {row.parameter.strip("`"): row for row in made}


ROWS = rows()
RANGE = re.compile(r"([\[(])(-?\d+), (\d+)([\])])")


def names_in(cell: str) -> set[str]:
    return set(re.findall(r"`([\w.]+)`", cell))


def test_there_is_a_row_for_each_parameter_in_their_order() -> None:
    assert list(ROWS) == FIELDS


def test_the_protocol_has_each_under_the_same_name() -> None:
    assert set(FIELDS) == set(pb.SamplingParams.DESCRIPTOR.fields_by_name)


def test_each_flag_is_there() -> None:
    assert [row.flag for row in ROWS.values()] == [f"`{setting.flag}`" for setting in sampling_settings()]


@pytest.mark.parametrize("name", FIELDS)
def test_the_default_is_the_engines(name: str) -> None:
    default = getattr(DEFAULTS, name)
    if default is None or default in ((), {}):
        shown = "none"
    elif isinstance(default, bool):
        shown = "yes" if default else "no"
    else:
        shown = f"`{default}`" if isinstance(default, str) else f"{default:g}"
    assert ROWS[name].default == shown


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if RANGE.match(row.range)])
def test_values_out_of_range_are_refused_and_its_ends_are_not(name: str) -> None:
    bounds = RANGE.match(ROWS[name].range)
    assert bounds is not None
    opens, low, high, closes = bounds[1], int(bounds[2]), int(bounds[3]), bounds[4]
    number = type(getattr(DEFAULTS, name) or 0)

    def is_refused(value: int) -> bool:
        violations = SamplingParams(**{name: number(value)}).violations(100)
        return any(v.field == name and not v.rule.startswith("must not be set with") for v in violations)

    assert is_refused(low - 1)
    assert is_refused(high + 1)
    assert is_refused(low) is (opens == "(")
    assert is_refused(high) is (closes == ")")


@pytest.mark.parametrize("name", FIELDS)
def test_what_does_not_combine_is_what_the_engine_refuses(name: str) -> None:
    clashing = {clash.other for clash in CLASHES if clash.field == name}
    clashing |= {clash.field for clash in CLASHES if clash.other == name}
    needed = {need.other for need in NEEDS if need.field == name}
    apart, _, only_with = ROWS[name].not_with.partition("only with")
    assert names_in(apart) == clashing
    assert names_in(only_with) == needed


@pytest.mark.parametrize("name", FIELDS)
def test_each_name_of_openai_is_a_parameter_that_works(name: str) -> None:
    found = names_in(ROWS[name].openai)
    assert found
    for path in found:
        assert any(is_supported(model, path) for model in (ChatCompletionRequest, CompletionRequest)), path


def test_each_parameter_of_decoding_stands_for_one_of_the_engines() -> None:
    told = {path.partition(".")[0] for row in ROWS.values() for path in names_in(row.openai)}
    assert set(DecodingParameters.model_fields) - NOT_OF_SAMPLING <= told


def is_supported(model: type[BaseModel], path: str) -> bool:
    """Whether a parameter, or one in an object that another one is, is there and not refused."""
    name, _, rest = path.partition(".")
    field = next((f for n, f in model.model_fields.items() if (f.alias or n) == name), None)
    if field is None or any(isinstance(mark, Only) for mark in field.metadata):
        return False
    return not rest or is_supported(model_of(field.annotation), rest)


def model_of(annotation: Any) -> type[BaseModel]:
    return next(each for each in (annotation, *get_args(annotation)) if hasattr(each, "model_fields"))
