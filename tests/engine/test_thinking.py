"""Models that think between tags: what is a tag, when a thought has to end, what the client reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.engine.decoding import NewToken
from octavo.engine.output import FinishReason
from octavo.engine.params import SamplingParams
from octavo.engine.resumption import Resumption
from octavo.engine.thinking import TAGS, Thinking, ThinkTags, think_tags
from octavo.engine.tokenizer import Tokenizer

from .test_detokenizer import CUTS, STRIPPING, byte_level, pushes, thinker, with_tags
from .test_resume_text import END, Output

__all__ = ["byte_level", "thinker"]  # the fixtures

OPEN, CLOSE, NEWLINE, TURN = 1, 2, 3, 4
THINK_TAGS = ThinkTags(OPEN, CLOSE, frozenset({NEWLINE}), frozenset({TURN}))


@pytest.mark.parametrize("pair", TAGS)
def test_tags_are_found_in_the_vocabulary(byte_level: Tokenizer, pair: tuple[str, str]) -> None:
    tokenizer = with_tags(byte_level, *pair)
    tags = tokenizer.think_tags

    assert tags is not None
    assert [tokenizer.decode([token_id]) for token_id in (tags.open_id, tags.close_id)] == list(pair)
    assert tokenizer.think_tags is tags


@pytest.mark.parametrize("tags", [(), ("<think>",), ("<think>", "[/THINK]")])
def test_without_a_pair_of_tags_there_are_none(byte_level: Tokenizer, tags: tuple[str, ...]) -> None:
    assert think_tags(with_tags(byte_level, *tags)) is None


def test_tags_know_newlines_and_turns(thinker: Tokenizer) -> None:
    tags = thinker.think_tags
    assert tags is not None

    newlines = set(map(thinker.bytes_of, tags.newline_ids))
    assert {b"\n", b"\n\n"} <= newlines
    assert not any(text.strip(b"\n") for text in newlines)
    assert set(thinker.encode("<|im_start|><|im_end|>")) <= tags.marker_ids
    assert not {tags.open_id, tags.close_id} & tags.marker_ids


def test_sentence_piece_writes_a_newline_as_a_byte() -> None:
    tags = with_tags(STRIPPING, "<think>", "</think>").think_tags
    assert tags is not None
    assert STRIPPING.backend.token_to_id("<0x0A>") in tags.newline_ids


@pytest.mark.parametrize(
    ("prompt", "thinks", "after_tag"),
    [
        ([], False, False),
        ([7, 8], False, False),
        ([7, TURN, OPEN], True, True),
        ([7, TURN, OPEN, NEWLINE], True, True),
        ([7, TURN, OPEN, NEWLINE, 8], True, False),
        ([7, TURN, OPEN, 8, CLOSE], False, True),
        ([7, TURN, OPEN, 8, CLOSE, NEWLINE, 9], False, False),
        ([7, OPEN, 8, CLOSE, 9, OPEN], True, True),
        ([7, OPEN, 8, TURN, NEWLINE], False, False),
    ],
)
def test_a_prompt_may_have_begun_to_think(prompt: list[int], thinks: bool, after_tag: bool) -> None:
    """But not in an earlier turn."""
    thinking = Thinking(THINK_TAGS, prompt)
    assert (thinking.thinking, thinking.after_tag) == (thinks, after_tag)


@pytest.mark.parametrize(
    ("tokens", "is_tag"),
    [
        ([OPEN, 7, CLOSE, 8], "|-|-"),
        ([NEWLINE, OPEN, 7, 7, CLOSE], "-|--|"),
        ([7, OPEN, 8, CLOSE], "----"),  # an answer about tags
        ([OPEN, NEWLINE, OPEN, 7, OPEN, CLOSE], "|-|--|"),
        ([OPEN, CLOSE, NEWLINE, CLOSE, OPEN, 7, CLOSE, 8, CLOSE], "||-||-|--"),
        ([OPEN, 7, CLOSE, 8, OPEN, 9], "|-|---"),
    ],
)
def test_a_tag_is_one_at_the_beginning_or_where_it_closes(tokens: list[int], is_tag: str) -> None:
    thinking = Thinking(THINK_TAGS, [9])
    assert "".join("|" if thinking.advance(token) else "-" for token in tokens) == is_tag


@pytest.mark.parametrize("budget", [0, 1, 3])
@pytest.mark.parametrize("in_prompt", [True, False])
def test_a_thought_has_to_end_when_the_budget_is_used_up(budget: int, in_prompt: bool) -> None:
    thinking = Thinking(THINK_TAGS, [9, OPEN] if in_prompt else [9])
    if not in_prompt:
        assert not thinking.must_close(budget)
        thinking.advance(OPEN)
    for _ in range(budget):
        assert not thinking.must_close(budget)
        thinking.advance(7)

    assert thinking.num_tokens == budget
    assert thinking.must_close(budget)
    assert not thinking.must_close(None)
    thinking.advance(CLOSE)
    assert not thinking.must_close(budget)


def test_a_thought_that_begins_again_has_the_rest_of_the_budget() -> None:
    thinking = Thinking(THINK_TAGS, [9])
    for token in (OPEN, 7, 7, CLOSE, OPEN):
        thinking.advance(token)

    assert thinking.must_close(2)


def test_a_fork_thinks_by_itself() -> None:
    thinking = Thinking(THINK_TAGS, [9, OPEN])
    fork = thinking.fork()
    fork.advance(7)
    fork.advance(CLOSE)

    assert (thinking.thinking, thinking.num_tokens) == (True, 0)
    assert (fork.thinking, fork.num_tokens) == (False, 1)


def told(tokenizer: Tokenizer, text: str, prompt: str = "Why?", **params: object) -> tuple[str, str]:
    """Reasoning and text that a client reads of an output that is `text`."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    settings = SamplingParams(max_tokens=len(ids), **params)  # type: ignore[arg-type]
    output = Output(tokenizer, settings, Resumption(), tokenizer.encode(prompt)).draw(ids)
    assert output.assembler.finish_reason is not None
    assert (output.told_reasoning, output.told) == (output.assembler.reasoning, output.assembler.text)
    return output.told_reasoning, output.told


@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        ("Why?", "<think>\nSo.\n</think>\n\nYes.", ("So.\n", "Yes.")),
        ("Why?", "\n<think>So.</think>Yes.", ("So.", "Yes.")),
        ("Why?<think>\n", "So.</think>\n\nYes.", ("So.", "Yes.")),
        ("Why?<think>\n", "\n\nSo.\n\nOr so.", ("So.\n\nOr so.", "")),
        ("Why?<think>\nOne.", "\n\nTwo.</think>Yes.", ("\n\nTwo.", "Yes.")),
        ("Why?<think>\n\n</think>\n\n", "\nYes.", ("", "Yes.")),
        ("Why?", "\n\nYes.\n", ("", "\n\nYes.\n")),
        ("Why?", "\n\n", ("", "\n\n")),
        ("Why?", "<think>\n", ("", "")),
        ("Why?", "A <think> opens, a </think> closes.", ("", "A <think> opens, a </think> closes.")),
        ("<|im_start|>user\nWhat is <think>?<|im_end|>\n<|im_start|>assistant\n", "A tag.", ("", "A tag.")),
    ],
)
def test_thoughts_and_answer_are_told_apart(
    thinker: Tokenizer, prompt: str, text: str, expected: tuple[str, str]
) -> None:
    assert told(thinker, text, prompt) == expected


def test_thoughts_of_sentence_piece_are_decoded_by_themselves() -> None:
    tokenizer = with_tags(STRIPPING, "<think>", "</think>")
    assert told(tokenizer, "<think>Hi low</think> Hi") == ("Hi low", "Hi")


def test_a_character_does_not_go_on_behind_a_tag(thinker: Tokenizer) -> None:
    half, tags = thinker.encode("🦩")[:-1], thinker.think_tags
    assert tags is not None
    ids = [tags.open_id, *half, tags.close_id, *thinker.encode("🦩")]
    output = Output(thinker, SamplingParams(max_tokens=len(ids)), Resumption()).draw(ids)
    assert (output.told_reasoning, output.told) == ("\ufffd", "🦩")


def test_stop_strings_end_the_answer_only(thinker: Tokenizer) -> None:
    text = "<think>\nStop.\n\nStop.</think>\n\nGo.\n\nStop. Go."
    assert told(thinker, text, stop=("Stop", "\n\n")) == ("Stop.\n\nStop.", "Go.")
    assert told(thinker, text, stop=("Stop",), include_stop=True) == ("Stop.\n\nStop.", "Go.\n\nStop")


def test_an_echo_is_no_thought(thinker: Tokenizer) -> None:
    assert told(thinker, "So.</think>Yes.", "Why?<think>\n", echo=True) == ("So.", "Why?<think>\nYes.")


def test_an_output_may_end_while_it_thinks(thinker: Tokenizer) -> None:
    ids = [*thinker.encode("<think>So."), END]
    output = Output(thinker, SamplingParams(max_tokens=50), Resumption()).draw(ids)
    assert output.facts == (ids, "", "So.", FinishReason.EOS)


PLAIN_TEXT = st.text("ab\n 世", max_size=8)


@given(PLAIN_TEXT, PLAIN_TEXT, st.booleans(), CUTS)
def test_parts_are_those_of_the_whole_text(
    thinker: Tokenizer, thought: str, answer: str, in_prompt: bool, sizes: list[int]
) -> None:
    text = f"{thought}</think>{answer}" if in_prompt else f"<think>{thought}</think>{answer}"
    ids = thinker.encode(text)
    prompt = thinker.encode("Why?<think>" if in_prompt else "Why?")
    output = Output(thinker, SamplingParams(max_tokens=99), Resumption(), prompt)
    assembler = output.assembler

    chunks = pushes(ids, sizes)
    deltas = [
        assembler.take(
            [NewToken(output.sequence, token, None, None) for token in chunk],
            FinishReason.LENGTH if chunk is chunks[-1] else None,
        )
        for chunk in chunks
    ]

    assert "".join(delta.reasoning for delta in deltas) == assembler.reasoning == thought.lstrip("\n")
    assert "".join(delta.text for delta in deltas) == assembler.text == answer.lstrip("\n")
    assert [token for delta in deltas for token in delta.token_ids] == ids
