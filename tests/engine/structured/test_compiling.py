"""Compiling: what is kept, what is refused, and what is tried out in another process first."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from octavo.engine.errors import InvalidRequest
from octavo.engine.params import SamplingParams
from octavo.engine.structured import GrammarCompiler, compiler, trial
from tests.engine.structured.world import PERSON, World

LONG = "x" * 300_000
CHAIN = "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(12_000)) + '\nr12000: "a"'
INTERSECTION = json.dumps({"allOf": [{"type": "string", "pattern": f"a{i}"} for i in range(100)]})


@pytest.fixture
def fresh(demo: World) -> GrammarCompiler:
    """A compiler that has compiled nothing."""
    return GrammarCompiler(demo.tokenizer, demo.vocab_size, demo.eos)


def test_what_was_compiled_is_kept(demo: World) -> None:
    grammar = demo.compile(regex="kept")

    assert demo.compile(regex="kept", temperature=0.5) is grammar
    assert demo.compile(choice=("kept",)) is not grammar


def test_the_longest_unused_grammar_goes(fresh: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "MOST_KEPT", 2)
    first, second = (fresh.compile(SamplingParams(choice=(text,))) for text in "ab")
    assert fresh.compile(SamplingParams(choice=("a",))) is first
    fresh.compile(SamplingParams(choice=("c",)))

    assert fresh.compile(SamplingParams(choice=("a",))) is first
    assert fresh.compile(SamplingParams(choice=("b",))) is not second


def test_threads_compile_one_grammar(fresh: GrammarCompiler) -> None:
    params = SamplingParams(json_schema=json.dumps(PERSON))
    with ThreadPoolExecutor(8) as pool:
        grammars = list(pool.map(lambda _: fresh.compile(params), range(16)))

    assert len(set(map(id, grammars))) == 1


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("json_schema", '{"type":', "must be JSON: Expecting value: line 1 column 9"),
        ("json_schema", '{"const": NaN}', "must be JSON: NaN is no value of JSON"),
        ("json_schema", "[" * 100_000, "must not be nested that deeply"),
        ("json_schema", '["string"]', "must be a JSON object, or `true`"),
        ("json_schema", "false", "must allow some value, and `false` allows none"),
        ("json_schema", '{"x-guidance": {"lenient": true}}', "must not have x-guidance"),
        ("json_schema", '{"type": "text"}', "must be a supported JSON schema: Invalid type: text"),
        ("json_schema", '{"uniqueItems": true}', 'Unimplemented keys: ["uniqueItems"]'),
        (
            "json_schema",
            '{"oneOf": [{"minimum": 1}, {"maximum": 2}]}',
            "oneOf constraints are not supported.",
        ),
        ("json_schema", '{"type": "integer", "minimum": 2, "maximum": 1}', "minimum (2) is greater than"),
        ("json_schema", '{"$ref": "#"}', "no output can be like that"),
        ("json_schema", '{"$ref": "https://example.org/x.json"}', "Resource 'https://example.org/x.json'"),
        ("json_schema", '{"enum": ["\\ud800"]}', "must be a supported JSON schema: unexpected end of hex"),
        ("json_schema", f'{{"const": "{LONG}"}}', "must have at most 256 KiB"),
        ("regex", "(", "must be a supported regular expression: unclosed group"),
        ("regex", r"(a)\1", "must be a supported regular expression: backreferences are not supported"),
        ("regex", r"(?=a)b", "look-around, including look-ahead and look-behind, is not supported"),
        ("regex", r"[^\s\S]", "no output can be like that"),
        ("regex", "\ud800", "must be text, without lone surrogates"),
        ("choice", (LONG,), "must have at most 256 KiB"),
        ("choice", ("\ud800",), "must be text, without lone surrogates"),
        ("choice", ("yes", "a\x06"), r"must not have 'a\x06', for which the model has no tokens"),
        ("grammar", 'start: "a" b', 'must be a grammar in Lark\'s notation: at 1(8): unknown name: "b"'),
        ("grammar", 'start: a\na: "a" "b', "must be a grammar in Lark's notation: 2(10): lexer error"),
        ("grammar", 'root ::= "a"', "must be a grammar in Lark's notation: 1(7): Expected token"),
        ("grammar", "start: <|im_end|>", "must not have special tokens such as <|im_end|>"),
        ("grammar", 'start: "a" <[*]>', "must not have special tokens such as <[*]>"),
        ("grammar", 'start: x "b"\nx[stop="b"]: /a*/', "must not have the attribute stop"),
        ("grammar", "start: x\nx[temperature=0.1]: /a*/", "must not have the attribute temperature"),
        ("grammar", '{"grammars": []}', "must be a grammar in Lark's notation"),
        ("grammar", 'start: start "a"', "no output can be like that"),
    ],
)
def test_what_cannot_be_followed_is_refused(demo: World, field: str, value: Any, rule: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        demo.compile(**{field: value})

    (violation,) = refused.value.violations
    assert (violation.field, violation.value) == (field, value)
    assert rule in violation.rule
    assert "\n" not in violation.rule


def test_text_in_a_grammar_may_look_like_what_is_refused(demo: World) -> None:
    grammar = demo.compile(
        grammar='// it\'s <b> "\nstart: "<b>" | /<i stop=1>/ | "\\"<u>" | json # <x>\n'
        'json: %json {"const": "<y stop=2>"}'
    )

    assert set(demo.outputs(grammar)) <= {"<b>", "<i stop=1>", '"<u>', '"<y stop=2>"'}


def test_a_model_without_an_end_cannot_follow_a_form(demo: World) -> None:
    without = GrammarCompiler(demo.tokenizer, demo.vocab_size, ())

    with pytest.raises(InvalidRequest, match="the model has no end-of-sequence token"):
        without.compile(SamplingParams(json_object=True))


def test_a_grammar_that_would_overflow_the_stack_is_refused(demo: World) -> None:
    """And the next one is compiled."""
    with pytest.raises(InvalidRequest, match="compiling it takes too much time or memory"):
        demo.compile(grammar=CHAIN)

    assert demo.compile(grammar='start: "after"')


def test_a_grammar_that_compiles_for_ever_is_refused(demo: World, monkeypatch: pytest.MonkeyPatch) -> None:
    demo.compile(regex="before")
    monkeypatch.setattr(trial, "SECONDS", 0.5)

    with pytest.raises(InvalidRequest, match="compiling it takes too much time or memory"):
        demo.compile(json_schema=INTERSECTION)


def test_a_process_that_died_meanwhile_is_started_again(demo: World, fresh: GrammarCompiler) -> None:
    fresh.compile(SamplingParams(regex="before"))
    process = fresh._trial._process
    assert process is not None
    process.kill()
    process.wait()

    assert fresh.compile(SamplingParams(regex="after"))


def test_a_grammar_is_compiled_untried_where_no_process_can_be_started(
    fresh: GrammarCompiler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    assert fresh.compile(SamplingParams(regex="untried"))
    assert "compiled untried" in caplog.text


def test_importing_it_does_not_load_the_library() -> None:
    code = "import sys, octavo.engine.structured; assert 'llguidance' not in sys.modules"

    subprocess.run([sys.executable, "-c", code], check=True)
