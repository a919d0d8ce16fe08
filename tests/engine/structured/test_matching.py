"""Masks, forced tokens, forks and ends: how an output follows its grammar."""

from __future__ import annotations

import logging
from random import Random
from typing import Any

import numpy as np
import pytest

from octavo.engine.structured import MaskFiller, compiler
from octavo.engine.structured.vocabulary import Vocabulary
from octavo.engine.tokenizer import Tokenizer
from tests.conftest import TinyModel
from tests.engine.structured.world import FORMS, World, ids_of

each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: next(iter(form)))


@each_form
def test_masks_agree_with_what_the_grammar_takes(world: World, form: dict[str, Any]) -> None:
    """Where tokens are forced, masks allow only these, though the same text could be spelt otherwise."""
    chance, matcher = Random(1), world.compile(**form).matcher()
    while not matcher.ended:
        allowed = world.allowed(matcher)
        takes = matcher.library.validate_tokens
        assert all(takes([token]) for token in allowed if token not in world.eos)
        if len(allowed) > 1:
            others = sorted(set(range(world.vocab_size)) - set(allowed))
            assert not any(takes([token]) for token in chance.sample(others, min(len(others), 200)))
        matcher.accept(chance.choice(allowed))


@each_form
def test_forced_tokens_are_those_that_masks_lead_to(world: World, form: dict[str, Any]) -> None:
    chance, seen = Random(2), 0
    for _ in range(5):
        matcher = world.compile(**form).matcher()
        while not matcher.ended:
            slow = matcher.fork()
            forced = matcher.forced()
            assert matcher.forced() == forced
            for token in forced:
                assert world.allowed(slow) == [token]
                slow.accept(token)
                matcher.accept(token)
            seen += len(forced)
            assert set(forced).isdisjoint(world.eos)
            allowed = world.allowed(matcher)
            assert allowed == world.allowed(slow)
            matcher.accept(chance.choice(allowed))
    assert seen


def test_forced_tokens_are_how_the_tokenizer_says_it(demo: World) -> None:
    text = "The quick brown fox jumps over the lazy dog."
    forced = demo.compile(choice=(text,)).matcher().forced()

    assert forced == demo.tokenizer.encode(text)[: len(forced)]
    assert len(forced) >= 9


def test_a_long_text_is_forced_in_parts(demo: World) -> None:
    text = "word and word, " * 100
    matcher, written = demo.compile(choice=(text,)).matcher(), list[int]()
    while forced := matcher.forced():
        assert len(forced) <= 64
        for token in forced:
            matcher.accept(token)
        written += forced

    assert text.startswith(demo.text(written))
    assert len(demo.text(written)) > len(text) - 20


@pytest.mark.parametrize(
    "text", ["a quick fox", " a", '{"name": "', "ab ab", "<|im_end|></s>", "日本", "word " * 200]
)
def test_forced_texts_become_tokens_of_just_that_text(world: World, text: str) -> None:
    """A long one is begun."""
    vocabulary = Vocabulary(world.tokenizer, world.vocab_size, world.eos)
    ids = vocabulary(text)
    said = b"".join(vocabulary.tokens[token] for token in ids).decode()

    assert text.startswith(said)
    assert len(said) >= min(len(text), 100)
    assert set(ids).isdisjoint(vocabulary.special_token_ids)


def test_something_else_than_what_was_forced_may_come(demo: World) -> None:
    """The same text, spelt otherwise, as where no mask was asked."""
    matcher = demo.compile(choice=("hello world",)).matcher()
    assert matcher.forced()

    for letter in "hello world":
        matcher.accept(demo.token(letter))

    assert matcher.ended
    assert matcher.library.is_accepting()


def test_special_tokens_padding_and_tags_never_come(tiny_model: TinyModel) -> None:
    """Also not where the text is theirs: it is spelt."""
    tokenizer = Tokenizer.from_folder(tiny_model("llama"))
    tokenizer.backend.add_tokens(["<tool_call>", "<think>", "</think>", "  "])
    tags = {tokenizer.backend.token_to_id(text) for text in ("<tool_call>", "<think>", "</think>")}
    world = World(tokenizer, eos=(2,))
    grammar = world.compile(regex="(<tool_call>|<think>|<.im_end.>|<.endoftext.>|[ -~]){1,9}")
    matcher = grammar.matcher()

    assert tokenizer.backend.token_to_id("  ") in world.allowed(matcher)
    while not matcher.ended:
        allowed = set(world.allowed(matcher))
        assert allowed.isdisjoint({0, 1, *tags})
        assert max(allowed) < tokenizer.vocab_size
        matcher.accept(min(allowed - {2}))


def test_all_ends_of_sequence_are_allowed_when_the_output_may_end(demo: World) -> None:
    matcher, token = demo.compile(regex="aa?").matcher(), demo.token("a")

    assert set(demo.eos).isdisjoint(demo.allowed(matcher))
    matcher.accept(token)
    assert set(demo.allowed(matcher)) == {token, *demo.eos}
    assert not matcher.ended
    matcher.accept(token)
    assert demo.allowed(matcher) == sorted(demo.eos)
    assert matcher.ended


@pytest.mark.parametrize("last", [0, 2])
def test_an_end_of_sequence_ends(demo: World, last: int) -> None:
    matcher = demo.compile(regex="a*").matcher()
    matcher.accept(last)

    assert matcher.ended
    assert matcher.forced() == []
    assert demo.allowed(matcher) == sorted(demo.eos)


def test_a_fork_goes_on_by_itself(demo: World) -> None:
    one = demo.compile(regex="[ab]{2}").matcher()
    one.accept(demo.token("a"))
    other = one.fork()

    one.accept(demo.token("b"))

    assert one.ended
    assert one.fork().ended
    assert not other.ended
    assert {demo.token("a"), demo.token("b")} <= set(demo.allowed(other))


def test_a_fork_knows_what_is_forced(demo: World) -> None:
    one = demo.compile(choice=("hello world",)).matcher()
    forced = one.forced()
    one.accept(forced[0])

    assert one.fork().forced() == one.forced() == forced[1:]


def test_masks_of_a_batch_are_those_of_its_matchers(demo: World) -> None:
    matchers = [demo.compile(**form).matcher() for form in FORMS * 3]
    for matcher in matchers[4:8]:
        matcher.accept(demo.allowed(matcher)[0])
    matchers[9].accept(2)
    matchers[10].forced()

    masks = demo.filler.begin(matchers)()

    assert masks.dtype == np.uint32
    assert masks.shape == (len(matchers), -(-demo.vocab_size // 32))
    for matcher, mask in zip(matchers, masks, strict=True):
        assert demo.allowed(matcher) == ids_of(mask)


def test_no_matchers_have_no_masks(demo: World) -> None:
    assert demo.filler.begin([])().shape == (0, -(-demo.vocab_size // 32))


def test_a_closed_filler_has_done_what_it_began(demo: World) -> None:
    filler = MaskFiller(demo.vocab_size)
    wait = filler.begin([demo.compile(json_object=True).matcher()])
    filler.close()

    assert wait().any()


def test_a_token_that_no_mask_allows_ends_the_output(demo: World, caplog: pytest.LogCaptureFixture) -> None:
    """And all of them write one line to the log."""
    grammar = demo.compile(regex="wrong or right")
    matchers = [grammar.matcher() for _ in range(3)]
    with caplog.at_level(logging.WARNING):
        for matcher in matchers:
            matcher.accept(demo.token("?"))

    assert all(matcher.ended and matcher.forced() == [] for matcher in matchers)
    assert all(ids_of(mask) == sorted(demo.eos) for mask in demo.filler.begin(matchers)())
    assert len(caplog.records) == 1


def test_a_grammar_that_grows_too_large_ends_its_outputs_and_is_compiled_anew(
    demo: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiler, "MAX_STATES", 200)
    form = {"regex": "(a|b)*a(a|b){30}c"}
    grammar = demo.compile(**form)
    matcher, chance = grammar.matcher(), Random(0)

    for _ in range(400):
        if matcher.ended:
            break
        demo.allowed(matcher)
        matcher.accept(demo.token(chance.choice("ab")))

    assert matcher.ended
    assert demo.allowed(matcher) == sorted(demo.eos)
    assert "outputs end early: lexer error: too many states" in caplog.text
    assert demo.compile(**form) is not grammar
    assert len(demo.allowed(demo.compile(**form).matcher())) > 2
