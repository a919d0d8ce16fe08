"""What random choices among allowed tokens write is what was asked for."""

from __future__ import annotations

import json
import re
import unicodedata
from random import Random
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from octavo.engine.tokenizer import Tokenizer
from tests.conftest import TinyModel
from tests.engine.structured.world import CHOICES, PERSON, World, follows

PROPERTY = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_json_follows_its_schema(world: World) -> None:
    for text in world.outputs(world.compile(json_schema=json.dumps(PERSON))):
        assert follows(json.loads(text), PERSON), text


def test_a_json_object_is_one_whatever_is_in_it(world: World) -> None:
    for text in world.outputs(world.compile(json_object=True)):
        assert isinstance(json.loads(text), dict), text


@pytest.mark.parametrize("schema", ["true", "{}", ' {"title": "anything"} '])
def test_a_schema_may_allow_any_json(demo: World, schema: str) -> None:
    for text in demo.outputs(demo.compile(json_schema=schema), 8):
        json.loads(text)


SCALARS = st.one_of(
    st.sampled_from(
        [{"type": "boolean"}, {"type": "null"}, {"const": 'a"b\\c/é\n'}, {"enum": [1, "x", None]}]
    ),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-1000, 1000),
        st.integers(0, 500),
    ),
    st.builds(
        lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
        st.integers(0, 3),
        st.integers(0, 4),
    ),
    st.sampled_from(["^a+b?$", "^(foo|bar)[0-9]{2}$", "^[^x]{1,3}$"]).map(
        lambda pattern: {"type": "string", "pattern": pattern}
    ),
)
NAMES = st.sampled_from(["a", "ab", "name", "<|im_end|>", "é", "a b", '"'])


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    arrays = st.builds(
        lambda items, low, more: {"type": "array", "items": items, "minItems": low, "maxItems": low + more},
        inner,
        st.integers(0, 2),
        st.integers(0, 1),
    )
    objects = st.builds(
        lambda properties, required: {
            "type": "object",
            "properties": properties,
            "required": sorted(required & set(properties)),
            "additionalProperties": False,
        },
        st.dictionaries(NAMES, inner, max_size=3),
        st.sets(NAMES),
    )
    options = st.lists(inner, min_size=1, max_size=2).map(lambda schemas: {"anyOf": schemas})
    return st.one_of(arrays, objects, options)


@given(schema=st.recursive(SCALARS, containers, max_leaves=5), seed=st.integers(0, 2**32))
@PROPERTY
def test_json_follows_any_schema(demo: World, schema: dict[str, Any], seed: int) -> None:
    text = demo.write(demo.compile(json_schema=json.dumps(schema)), Random(seed), jump=seed % 2 == 0)

    assert text is None or follows(json.loads(text), schema), text


def test_properties_come_in_the_order_of_the_schema(demo: World) -> None:
    for text in demo.outputs(demo.compile(json_schema=json.dumps(PERSON))):
        names = list(json.loads(text))
        assert names == [name for name in PERSON["properties"] if name in names]


@pytest.mark.parametrize("indent", [None, 0, 1, 2, 4, 8, "\t"])
def test_json_may_be_written_as_json_dumps_does(demo: World, indent: int | str | None) -> None:
    value = {"name": "Ada", "age": 36, "role": "user", "friends": [{"code": "AB-1"}, {"code": "CD-23"}]}
    matcher = demo.compile(json_schema=json.dumps(PERSON)).matcher()

    for token in demo.tokenizer.encode(json.dumps(value, indent=indent), add_special_tokens=False):
        matcher.accept(token)

    assert matcher.ended
    assert matcher.library.is_accepting()


def test_whitespace_between_two_tokens_of_json_ends(demo: World) -> None:
    for text in demo.outputs(demo.compile(json_schema=json.dumps(PERSON))):
        outside = re.sub(r'"(\\.|[^"\\])*"', '""', text)
        assert all(len(run) <= 33 and run.count("\n") <= 1 for run in re.findall(r"\s+", outside))


@pytest.mark.parametrize(
    "pattern",
    [
        "ab",
        "a{3,5}b?",
        r"(\+[0-9]{2} )?[0-9]{3}/[a-z]{2,4}",
        "^(yes|no)$",
        " {0,2}x",
        "[^a-zA-Z0-9]{1,4}",
        "é{2}|日本|😀{1,3}",
        '"[^"]{0,5}"|/|#|\n|\\\\',
        "(?i)select",
        "(?s).{1,4}",
    ],
)
def test_an_output_matches_its_regular_expression_as_a_whole(world: World, pattern: str) -> None:
    for text in world.outputs(world.compile(regex=pattern), 10):
        assert re.fullmatch(pattern, text), text


def test_an_empty_match_is_an_empty_output(world: World) -> None:
    assert set(world.outputs(world.compile(regex=""))) == {""}


def test_an_output_is_one_of_its_choices(world: World) -> None:
    assert set(world.outputs(world.compile(choice=CHOICES), 60)) <= set(CHOICES)


@pytest.mark.parametrize("text", CHOICES)
def test_every_choice_can_be_made(world: World, text: str) -> None:
    assert set(world.outputs(world.compile(choice=(text,)), 4)) == {text}


@given(
    choices=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), min_size=1),
    seed=st.integers(0, 2**32),
)
@PROPERTY
def test_choices_are_any_texts(sentence_piece: World, choices: list[str], seed: int) -> None:
    assert sentence_piece.write(sentence_piece.compile(choice=tuple(choices)), Random(seed)) in choices


def test_an_output_follows_its_grammar(world: World) -> None:
    grammar = world.compile(grammar='start: sum\nsum: NUMBER | "(" sum "+" sum ")"\nNUMBER: /[1-9][0-9]?/')

    for text in world.outputs(grammar):
        while (shorter := re.sub(r"\([0-9]+\+[0-9]+\)", "1", text)) != text:
            text = shorter
        assert re.fullmatch("[0-9]{1,2}", text)


def test_text_that_is_not_in_the_tokenizers_normal_form_is_kept(tiny_model: TinyModel) -> None:
    backend = tokenizers.Tokenizer.from_file(str(tiny_model("llama") / "tokenizer.json"))
    backend.normalizer = normalizers.NFC()
    world = World(Tokenizer(backend, {"eos_token": "<|im_end|>"}), eos=(2,))
    text = unicodedata.normalize("NFD", "é à la carte")

    assert set(world.outputs(world.compile(choice=(text,)), 4)) == {text}
