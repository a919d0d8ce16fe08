"""Text as it comes: whole characters, the same as decoding all at once, and never a part of a stop string."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from octavo.engine.detokenizer import Detokenizer
from octavo.engine.models.source import open_model
from octavo.engine.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import TinyModel

SPM_PIECES = ["▁", "▁▁", "l", "ow", "▁low", "▁Hi", "世", "é", "\n", "x▁"]


@pytest.fixture(scope="session")
def byte_level(smollm2_path: Path) -> Tokenizer:
    return open_model(str(smollm2_path)).tokenizer()


def with_tags(tokenizer: Tokenizer, *tags: str) -> Tokenizer:
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    return Tokenizer(backend, tokenizer.special_tokens)


@pytest.fixture(scope="session")
def thinker(byte_level: Tokenizer) -> Tokenizer:
    return with_tags(byte_level, "<think>", "</think>")


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_model: TinyModel) -> Tokenizer:
    return open_model(str(tiny_model("llama"))).tokenizer()


def sentence_piece(add_space_prefix: bool) -> Tokenizer:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *SPM_PIECES]
    metadata = {
        "model": "llama",
        "tokens": tokens,
        "scores": [0.0] * len(tokens),
        "token_type": [2, 3, 3] + [6] * 256 + [1] * len(SPM_PIECES),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "add_space_prefix": add_space_prefix,
    }
    return Tokenizer.from_gguf({f"tokenizer.ggml.{key}": value for key, value in metadata.items()}, "x.gguf")


STRIPPING, PLAIN = sentence_piece(True), sentence_piece(False)
BYTES_OF_CHARACTERS = st.text("aé世👋 ", min_size=1, max_size=4).map(
    lambda text: [3 + byte for byte in text.encode()]
)
SPM_IDS = st.lists(
    st.one_of(
        st.integers(259, 259 + len(SPM_PIECES)).map(lambda token: [token]),  # one too many: an unknown id
        st.integers(0, 258).map(lambda token: [token]),
        BYTES_OF_CHARACTERS,
    ),
    max_size=30,
).map(lambda runs: [token for run in runs for token in run])
STOPS = st.lists(st.text("ab ", min_size=1, max_size=5), max_size=3)
CUTS = st.lists(st.integers(1, 5), min_size=60, max_size=60)


def pushes(token_ids: list[int], sizes: list[int]) -> list[list[int]]:
    found, start = [], 0
    for size in sizes * len(token_ids):
        if start >= len(token_ids):
            break
        found.append(token_ids[start : start + size])
        start += size
    return found


def check_equals_decode(tokenizer: Tokenizer, token_ids: list[int], sizes: list[int], skip: bool) -> None:
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip)

    parts = [detokenizer.push(push) for push in pushes(token_ids, sizes)]

    text = tokenizer.decode(token_ids, skip_special_tokens=skip)
    for index in range(len(parts)):
        assert text.startswith("".join(parts[: index + 1]))
    assert "".join(parts) + detokenizer.flush() == text
    assert detokenizer.num_tokens == len(token_ids)


@given(st.lists(st.integers(0, 49_200), max_size=60), CUTS, st.booleans())
def test_byte_level_text_equals_decoding_all_at_once(
    byte_level: Tokenizer, token_ids: list[int], sizes: list[int], skip: bool
) -> None:
    check_equals_decode(byte_level, token_ids, sizes, skip)


@given(st.text(), CUTS)
def test_byte_level_text_comes_back_whole(byte_level: Tokenizer, text: str, sizes: list[int]) -> None:
    check_equals_decode(byte_level, byte_level.encode(text), sizes, skip=False)


@given(SPM_IDS, CUTS, st.booleans(), st.sampled_from([STRIPPING, PLAIN]))
def test_sentence_piece_text_equals_decoding_all_at_once(
    token_ids: list[int], sizes: list[int], skip: bool, tokenizer: Tokenizer
) -> None:
    check_equals_decode(tokenizer, token_ids, sizes, skip)


@given(st.lists(st.integers(0, 330), max_size=60), CUTS)
def test_added_tokens_between_bytes_equal_decoding_all_at_once(
    tiny_tokenizer: Tokenizer, token_ids: list[int], sizes: list[int]
) -> None:
    check_equals_decode(tiny_tokenizer, token_ids, sizes, skip=False)


def test_a_character_of_several_tokens_comes_whole(byte_level: Tokenizer) -> None:
    token_ids = byte_level.encode("🦩")
    assert len(token_ids) > 1
    detokenizer = Detokenizer(byte_level)

    assert [detokenizer.push([token_id]) for token_id in token_ids] == [""] * (len(token_ids) - 1) + ["🦩"]


def test_a_character_that_never_ends_is_told_at_the_end(byte_level: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_level)

    assert detokenizer.push(byte_level.encode("🦩")[:-1]) == ""
    assert detokenizer.flush() == "\ufffd"


def test_the_first_space_is_stripped_and_no_other() -> None:
    hi = STRIPPING.backend.token_to_id("▁Hi")
    detokenizer = Detokenizer(STRIPPING)

    assert [detokenizer.push([token_id]) for token_id in (1, hi, 2, hi)] == ["", "Hi", "", " Hi"]


def push_text(
    tokenizer: Tokenizer, text: str, *stop: str, include_stop: bool = False
) -> tuple[list[str], Detokenizer]:
    detokenizer = Detokenizer(tokenizer, stop, include_stop=include_stop)
    parts = [detokenizer.push([token_id]) for token_id in tokenizer.encode(text)]
    return [*parts, detokenizer.flush()], detokenizer


def test_a_stop_string_ends_the_text_before_it(byte_level: Tokenizer) -> None:
    parts, detokenizer = push_text(byte_level, "one two\n\nthree four", "\n\nthree")

    assert "".join(parts) == "one two"
    assert detokenizer.stopped


def test_what_may_become_a_stop_string_waits(byte_level: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_level, ("END",))

    assert detokenizer.push(byte_level.encode("the E")) == "the "
    assert detokenizer.push(byte_level.encode("N")) == ""
    assert detokenizer.push(byte_level.encode("X")) == "ENX"
    assert not detokenizer.stopped


def test_what_waited_comes_at_the_end(byte_level: Tokenizer) -> None:
    parts, detokenizer = push_text(byte_level, "the EN", "END")

    assert "".join(parts) == "the EN"
    assert not detokenizer.stopped


def test_tokens_after_the_one_that_completes_a_stop_string_are_not_consumed(byte_level: Tokenizer) -> None:
    token_ids = byte_level.encode("a b stop c d")
    detokenizer = Detokenizer(byte_level, ("stop",))

    text = detokenizer.push(token_ids)

    assert text == "a b "
    assert byte_level.decode(token_ids[: detokenizer.num_tokens]) == "a b stop"
    assert detokenizer.push(token_ids) == detokenizer.flush() == ""
    assert byte_level.decode(token_ids[: detokenizer.num_tokens]) == "a b stop"


def test_the_stop_string_that_begins_first_wins(byte_level: Tokenizer) -> None:
    parts, _ = push_text(byte_level, "hello world", " world", "o world", "ld")

    assert "".join(parts) == "hell"


def test_a_stop_string_that_repeats_its_beginning_is_found(byte_level: Tokenizer) -> None:
    parts, detokenizer = push_text(byte_level, "aababaabc", "aabc")

    assert "".join(parts) == "aabab"
    assert detokenizer.stopped


def test_a_stop_string_in_the_last_bytes_is_found_at_the_end() -> None:
    detokenizer = Detokenizer(STRIPPING, ("世",))

    assert detokenizer.push([3 + byte for byte in "a世".encode()]) == ""
    assert detokenizer.flush() == "a"
    assert detokenizer.stopped


@given(st.text("ab", max_size=40), st.lists(st.text("ab", min_size=1, max_size=5), max_size=3), CUTS)
def test_emitted_text_is_the_text_before_the_first_stop_string(
    byte_level: Tokenizer, text: str, stop: list[str], sizes: list[int]
) -> None:
    """Letter by letter, so that the first to be complete is the first of all to end."""
    detokenizer = Detokenizer(byte_level, tuple(stop))
    letters = [byte_level.encode(letter)[0] for letter in text]

    emitted = "".join(detokenizer.push(push) for push in pushes(letters, sizes)) + detokenizer.flush()

    ends = [text.find(word) + len(word) for word in stop if word in text]
    starts = [text.find(word) for word in stop if word in text and text.find(word) + len(word) == min(ends)]
    assert emitted == (text[: min(starts)] if ends else text)
    assert detokenizer.stopped == bool(ends)
    assert detokenizer.num_tokens == (min(ends) if ends else len(text))


def test_a_stop_string_that_is_included_ends_the_text(byte_level: Tokenizer) -> None:
    parts, detokenizer = push_text(byte_level, "one two\n\nthree four", "\n\nth", include_stop=True)

    assert "".join(parts) == "one two\n\nth"
    assert detokenizer.stopped


def test_of_stop_strings_that_begin_together_the_shortest_is_included(byte_level: Tokenizer) -> None:
    parts, _ = push_text(byte_level, "hello world", " world", " wo", include_stop=True)

    assert "".join(parts) == "hello wo"


@given(st.text("ab ", max_size=40), STOPS, CUTS, st.booleans())
def test_text_in_pieces_is_the_whole_text_cut_once(
    byte_level: Tokenizer, text: str, stop: list[str], sizes: list[int], include: bool
) -> None:
    """Tokens of several letters: the first that completes any stop string ends the text."""
    token_ids = byte_level.encode(text)
    expected, num_tokens = text, len(token_ids)
    for count in range(len(token_ids) + 1):
        so_far = byte_level.decode(token_ids[:count])
        if found := [(so_far.find(word), len(word)) for word in stop if word in so_far]:
            start, length = min(found)
            expected, num_tokens = so_far[: start + length if include else start], count
            break
    detokenizer = Detokenizer(byte_level, tuple(stop), include_stop=include)

    parts = [detokenizer.push(push) for push in pushes(token_ids, sizes)]

    assert "".join(parts) + detokenizer.flush() == expected
    assert detokenizer.num_tokens == num_tokens
    for index in range(len(parts)):
        assert expected.startswith("".join(parts[: index + 1]))


@given(SPM_IDS, st.integers(0, 30), st.sampled_from([STRIPPING, PLAIN]))
def test_behind_an_echo_text_goes_on_as_if_decoded_with_it(
    token_ids: list[int], start: int, tokenizer: Tokenizer
) -> None:
    check_echo(tokenizer, token_ids, start)


@given(st.lists(st.integers(0, 49_200), max_size=30), st.integers(0, 30))
def test_behind_an_echo_bytes_go_on_as_if_decoded_with_it(
    byte_level: Tokenizer, token_ids: list[int], start: int
) -> None:
    check_echo(byte_level, token_ids, start)


def check_echo(tokenizer: Tokenizer, token_ids: list[int], start: int) -> None:
    detokenizer = Detokenizer(tokenizer)

    text = detokenizer.echo(token_ids[:start])
    parts = [detokenizer.push([token_id]) for token_id in token_ids[start:]]

    assert text + "".join(parts) + detokenizer.flush() == tokenizer.decode(token_ids)
    assert detokenizer.num_tokens == len(token_ids[start:])


def test_no_stop_string_ends_an_echo(byte_level: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_level, ("two",))

    assert detokenizer.echo(byte_level.encode("one two")) == "one two"
    assert not detokenizer.stopped
    assert detokenizer.push(byte_level.encode(" three")) == " three"


def test_newlines_that_are_skipped_complete_no_stop_string(byte_level: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_level, ("\n\n",))
    detokenizer.skip_newlines()

    assert detokenizer.push(byte_level.encode("\n\n\none\n\ntwo")) == "one"
    assert detokenizer.stopped


@pytest.mark.parametrize("name", ["byte level", "sentence piece", "bytes only"])
def test_cost_per_token_does_not_grow_with_the_text(
    byte_level: Tokenizer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tokenizer = byte_level if name == "byte level" else STRIPPING
    token_ids = {"byte level": [3000], "sentence piece": [263], "bytes only": [100]}[name] * 20_000
    detokenizer = Detokenizer(tokenizer, ("never",))
    decode, decoded = Tokenizer.decode, 0
    num_held, looked_at = Detokenizer._num_held, 0

    def counted(self: Tokenizer, token_ids: list[int], **settings: bool) -> str:
        nonlocal decoded
        decoded += len(token_ids)
        return decode(self, token_ids, **settings)

    def searched(self: Detokenizer, text: str) -> int:
        nonlocal looked_at
        looked_at += len(text)
        return num_held(self, text)

    monkeypatch.setattr(Tokenizer, "decode", counted)
    monkeypatch.setattr(Detokenizer, "_num_held", searched)
    text = detokenizer.push(token_ids) + detokenizer.flush()

    assert decoded <= 3 * len(token_ids), "each alone, and behind the one before"
    held = len("never") - 1
    assert len(text) <= looked_at <= len(text) + held * len(token_ids), "what is new, and what was held back"
