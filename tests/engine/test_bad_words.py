"""Bad words as tokens, and the tokens that would complete them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import pytest
import tokenizers
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers

from octavo.engine.bad_words import BadWords, bad_word_ids
from octavo.engine.tokenizer import Tokenizer

from .test_detokenizer import PLAIN, STRIPPING, byte_level

__all__ = ["byte_level"]  # the fixture


def pieces(tokenizer: Tokenizer, *texts: str) -> list[list[str]]:
    """The tokens of each form, as the vocabulary writes them."""
    return [[tokenizer.backend.id_to_token(token) for token in ids] for ids in bad_word_ids(tokenizer, texts)]


def prepending() -> Tokenizer:
    """As the first Llama's tokenizer.json: the space is put in front by a normaliser."""
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "H", "i", "Hi", "▁Hi"]
    merges = [("H", "i"), ("▁", "Hi")]
    backend = tokenizers.Tokenizer(
        models.BPE({token: index for index, token in enumerate(tokens)}, merges, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1)]
    )
    return Tokenizer(backend, {})


def test_a_word_has_a_form_behind_a_space_and_one_within_words(byte_level: Tokenizer) -> None:
    assert pieces(byte_level, "cat") == [["Ġcat"], ["cat"]]


def test_both_forms_may_have_any_number_of_tokens(byte_level: Tokenizer) -> None:
    spaced, bare = bad_word_ids(byte_level, ["flamingo"])

    assert byte_level.decode(spaced) == " flamingo"
    assert byte_level.decode(bare) == "flamingo"
    assert len(spaced) != len(bare)


@pytest.mark.parametrize("text", [" cat", "\n cat", "cat"])
def test_spaces_in_front_count_for_nothing(byte_level: Tokenizer, text: str) -> None:
    assert bad_word_ids(byte_level, [text]) == bad_word_ids(byte_level, ["cat"])


@pytest.mark.parametrize("text", ["\n", "\n\n", " ", "\t"])
def test_spaces_alone_are_themselves(byte_level: Tokenizer, text: str) -> None:
    [form] = bad_word_ids(byte_level, [text])

    assert byte_level.decode(form) == text


def test_no_form_comes_twice(byte_level: Tokenizer) -> None:
    assert bad_word_ids(byte_level, ["cat", " cat", "cat"]) == bad_word_ids(byte_level, ["cat"])


@given(st.text(min_size=1, max_size=8))
def test_forms_are_the_text_with_and_without_a_space(byte_level: Tokenizer, text: str) -> None:
    assume(byte_level.decode(byte_level.encode(text)) == text)  # it lacks a few bytes
    forms = {byte_level.decode(ids) for ids in bad_word_ids(byte_level, [text])}

    word = text.lstrip()
    assert forms == ({f" {word}", word} if word else {text})


@pytest.mark.parametrize("tokenizer", [prepending(), STRIPPING, PLAIN], ids=["prepend", "metaspace", "plain"])
def test_sentence_piece_puts_a_space_in_front_of_one_form_only(tokenizer: Tokenizer) -> None:
    spaced, bare = bad_word_ids(tokenizer, ["Hi"])

    assert b"".join(map(tokenizer.bytes_of, spaced)) == b" Hi"
    assert b"".join(map(tokenizer.bytes_of, bare)) == b"Hi"
    assert tokenizer.backend.id_to_token(spaced[0]).startswith("▁")


def test_a_special_token_is_a_word_too(byte_level: Tokenizer) -> None:
    assert [2] in [list(ids) for ids in bad_word_ids(byte_level, ["<|im_end|>"])]


def test_the_last_token_is_forbidden_behind_the_others() -> None:
    words = BadWords([(1, 2, 3), (2, 4), (5,)])

    assert words.forbidden(array("i", [9])) == [5]
    assert words.forbidden(array("i", [9, 1, 2])) == [5, 3, 4]
    assert words.forbidden(array("i", [])) == [5]


def test_guesses_count_as_tokens() -> None:
    words = BadWords([(1, 2, 3)])

    assert words.forbidden(array("i", [9, 1]), [2]) == [3]
    assert words.forbidden(array("i", [9, 1]), (2, 3)) == []


WORDS = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=12)


@given(WORDS, st.lists(st.integers(0, 5), min_size=1, max_size=10), st.integers(0, 3))
def test_it_forbids_what_transformers_forbids(
    words: list[list[int]], context: list[int], num_extra: int
) -> None:
    cut = len(context) - num_extra if num_extra < len(context) else len(context)

    found = BadWords(words).forbidden(array("i", context[:cut]), context[cut:])

    assert sorted(found) == transformers_forbids(words, context)


def transformers_forbids(words: Sequence[Sequence[int]], context: Sequence[int]) -> list[int]:
    import torch
    from transformers import NoBadWordsLogitsProcessor

    scores = NoBadWordsLogitsProcessor(words)(torch.tensor([context]), torch.zeros(1, 6))
    return torch.nonzero(scores[0] == -torch.inf).flatten().tolist()
