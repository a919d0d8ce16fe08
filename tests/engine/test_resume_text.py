"""The text of a resumed output: split characters, held-back beginnings of stop strings, stripped spaces."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from collections.abc import Sequence as Tokens

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from octavo.engine.assembler import Assembler
from octavo.engine.decoding import NewToken
from octavo.engine.errors import InvalidRequest
from octavo.engine.output import FinishReason
from octavo.engine.params import SamplingParams
from octavo.engine.request import Request
from octavo.engine.resumption import Resumption
from octavo.engine.sampling_state import SamplingState
from octavo.engine.sequence import Sequence
from octavo.engine.timeline import Timeline
from octavo.engine.tokenizer import Tokenizer

from .test_detokenizer import PLAIN, SPM_IDS, STRIPPING, byte_level, thinker

__all__ = ["byte_level", "thinker"]  # the fixtures

END = 2
"""The token that ends a sequence; `</s>`, or `<|im_end|>`."""


class Output:
    """One output as a client sees it: drawn token by token, perhaps on two engines."""

    def __init__(
        self, tokenizer: Tokenizer, params: SamplingParams, resume: Resumption, prompt: Tokens[int] = (0,)
    ) -> None:
        assert params.max_tokens is not None
        self.sequence = Sequence(
            number=0,
            request=Request(params),
            token_ids=array("i", [*prompt, *resume.token_ids]),
            num_prompt_tokens=len(prompt),
            params=params,
            sampling=SamplingState(params, 0, len(prompt)),
            max_tokens=params.max_tokens,
            stop_tokens=frozenset({END}),
            timeline=Timeline(0),
        )
        self.assembler = Assembler(self.sequence, tokenizer, resume)
        self.told = self.told_reasoning = ""

    def draw(self, token_ids: Iterable[int]) -> Output:
        for token_id in token_ids:
            if self.assembler.finish_reason is not None:
                break
            self.sequence.token_ids.append(token_id)
            new = NewToken(self.sequence, token_id, None, self.sequence.end)
            delta = self.assembler.take([new])
            self.told += delta.text
            self.told_reasoning += delta.reasoning
        return self

    @property
    def facts(self) -> tuple[list[int], str, str, FinishReason | None]:
        made = self.assembler
        return made.token_ids, made.text, made.reasoning, made.finish_reason


def check_every_cut(
    tokenizer: Tokenizer,
    token_ids: list[int],
    stop: tuple[str, ...],
    prompt: Tokens[int] = (0,),
    **settings: bool,
) -> None:
    params = SamplingParams(max_tokens=len(token_ids), stop=stop, **settings)
    whole = Output(tokenizer, params, Resumption(), prompt).draw(token_ids)
    ids, text, reasoning, reason = whole.facts
    assert (whole.told, whole.told_reasoning) == (text, reasoning)
    assert reason is not None
    for cut in range(len(ids)):
        before = Output(tokenizer, params, Resumption(), prompt).draw(ids[:cut])
        after = Output(tokenizer, params, Resumption(ids[:cut]), prompt).draw(token_ids[cut:])
        assert before.told + after.told == text
        assert before.told_reasoning + after.told_reasoning == reasoning
        assert after.facts == whole.facts
    ended = Output(tokenizer, params, Resumption(ids, reason), prompt)
    assert ended.facts == whole.facts
    assert ended.told == ended.told_reasoning == ""


STOPS = st.lists(st.text("abé世 ", min_size=1, max_size=3), max_size=3).map(tuple)


@given(st.text("abé世👋 ", min_size=1, max_size=12), STOPS, st.booleans())
@example("né世👋世界", ("世界",), True)
def test_byte_level_text_goes_on_from_any_token(
    byte_level: Tokenizer, text: str, stop: tuple[str, ...], ends: bool
) -> None:
    token_ids = [token for character in text for token in byte_level.encode(character)]
    check_every_cut(byte_level, token_ids + [END] * ends, stop)


@given(SPM_IDS.filter(len), STOPS, st.sampled_from([STRIPPING, PLAIN]))
def test_sentence_piece_text_goes_on_from_any_token(
    token_ids: list[int], stop: tuple[str, ...], tokenizer: Tokenizer
) -> None:
    check_every_cut(tokenizer, token_ids, stop)


@given(st.text("abé世 ", min_size=1, max_size=8), STOPS)
def test_a_stop_string_that_is_included_goes_on_from_any_token(
    byte_level: Tokenizer, text: str, stop: tuple[str, ...]
) -> None:
    check_every_cut(byte_level, byte_level.encode(text), stop, include_stop=bool(stop))


@given(
    st.sampled_from(["", "Hi.", "Why?<think>", "<think>\n", "<think>Well", "<think>\n\n</think>\n\n"]),
    st.lists(st.sampled_from(["<think>", "</think>", "\n", "\n\n", "a", "b ", "世"]), min_size=1, max_size=9),
    st.sampled_from([(), ("\n",), ("a\n", "b"), ("世",)]),
    st.booleans(),
)
@example("", ["\n", "<think>", "\n", "a", "</think>", "\n\n", "b ", "世"], ("世",), False)
def test_reasoning_and_text_go_on_from_any_token(
    thinker: Tokenizer, prompt: str, texts: list[str], stop: tuple[str, ...], ends: bool
) -> None:
    token_ids = [token for text in texts for token in thinker.encode(text)] + [END] * ends
    check_every_cut(thinker, token_ids, stop, [0, *thinker.encode(prompt)])


@given(st.text("aé世 ", min_size=1, max_size=4), st.text("aé世 ", min_size=1, max_size=4), st.integers(0, 3))
def test_an_echo_is_told_once(byte_level: Tokenizer, prompt: str, text: str, start: int) -> None:
    """Also of a prompt that ends within a character."""
    ids = byte_level.encode(prompt + text)
    start = min(start + 1, len(ids))
    check_every_cut(byte_level, [*ids[start:], END], (), ids[:start], echo=True)


def test_a_stop_string_may_be_complete_already(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("one two")
    output = Output(byte_level, SamplingParams(max_tokens=50, stop=(" two",)), Resumption(ids))
    assert output.facts == (ids, "one", "", FinishReason.STOP)


def test_nothing_may_follow_a_stop_string(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("one two three")
    with pytest.raises(InvalidRequest, match=r"resume\.token_ids\[2\]: must not be there.* stop string"):
        Output(byte_level, SamplingParams(max_tokens=50, stop=(" two",)), Resumption(ids))


@pytest.mark.parametrize(
    ("text", "told", "true"),
    [
        ("one two", FinishReason.STOP, "LENGTH"),
        ("one two", FinishReason.EOS, "LENGTH"),
        ("one two<|im_end|>", FinishReason.LENGTH, "EOS"),
        ("one stop", FinishReason.LENGTH, "STOP"),
        ("one stop", FinishReason.EOS, "STOP"),
    ],
)
def test_a_reason_that_is_not_how_the_tokens_end_is_refused(
    byte_level: Tokenizer, text: str, told: FinishReason, true: str
) -> None:
    params = SamplingParams(max_tokens=50, stop=("stop",))
    with pytest.raises(InvalidRequest, match=f"how the output ends, which is {true} .got '{told.name}'"):
        Output(byte_level, params, Resumption(byte_level.encode(text), told))


def test_a_shorter_context_elsewhere_ends_an_output_anywhere(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("one two")
    output = Output(byte_level, SamplingParams(max_tokens=50), Resumption(ids, FinishReason.LENGTH))
    assert output.facts == (ids, "one two", "", FinishReason.LENGTH)
