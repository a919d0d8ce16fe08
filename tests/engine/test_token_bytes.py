"""The text of single tokens, as bytes: together they are the output's text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.engine.tokenizer import Tokenizer

from .test_detokenizer import PLAIN, STRIPPING, byte_level

__all__ = ["byte_level"]  # the fixture


@given(st.text())
def test_byte_level_tokens_join_to_the_bytes_of_the_text(byte_level: Tokenizer, text: str) -> None:
    tokens = byte_level.encode(text)  # of a vocabulary that lacks some bytes, and drops them
    said = byte_level.decode(tokens, skip_special_tokens=False)
    assert b"".join(map(byte_level.bytes_of, tokens)).decode(errors="replace") == said


@given(st.lists(st.sampled_from("aé世👋 "), min_size=1).map("".join))
def test_sentence_piece_tokens_join_to_the_bytes_of_the_text(text: str) -> None:
    tokens = [3 + byte for byte in text.encode()]
    assert b"".join(map(PLAIN.bytes_of, tokens)) == text.encode() == PLAIN.decode(tokens).encode()


def test_a_token_can_be_a_part_of_a_character(byte_level: Tokenizer) -> None:
    parts = [byte_level.bytes_of(token) for token in byte_level.encode("🦩")]
    assert len(parts) > 1
    assert b"".join(parts) == "🦩".encode()


def test_the_space_that_decoding_strips_belongs_to_its_token() -> None:
    assert STRIPPING.bytes_of(STRIPPING.backend.token_to_id("▁Hi")) == b" Hi"
    assert STRIPPING.bytes_of(STRIPPING.backend.token_to_id("x▁")) == b"x "


@pytest.mark.parametrize("text", ["<|im_end|>", "<|endoftext|>"])
def test_a_special_token_is_its_text(byte_level: Tokenizer, text: str) -> None:
    assert byte_level.bytes_of(byte_level.backend.token_to_id(text)) == text.encode()


def test_an_id_that_the_tokenizer_does_not_know_has_no_text(byte_level: Tokenizer) -> None:
    assert byte_level.bytes_of(10_000_000) == b""
