"""A model's tokens as the grammar library sees them: bytes, and which of them are no text."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import tokenizers
    from llguidance import LLTokenizer

    from octavo.engine.tokenizer import Tokenizer

ANCHOR = "\x01"
"""Stands before a text that is no beginning, so that no space is put before it. Nothing merges with it."""
LONGEST = 256
"""Characters of a forced text that are tokenised at a time."""
UNSURE = 8
"""Tokens at the end of a cut text that might be others if it went on."""


class Vocabulary:
    """What llguidance asks of a tokenizer, as its TokenizerWrapper has it.

    tokens: bytes by token id, of the model's ids: nothing for padding, which no grammar can ask for then.
    special_token_ids: those that are never text, however it is spelt: the tokenizer's special tokens, the
        model's ends of sequence, tags of thinking, and added tokens in angle brackets such as <tool_call>.

    Called with a text it gives tokens that are this text, in the way in which the model is used to see it.
    The library forces these where a grammar leaves no choice, and does not check them.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self.tokens = [tokenizer.bytes_of(token_id) for token_id in range(vocab_size)]
        self.eos_token_id = eos_token_ids[0]
        added = tokenizer.backend.get_added_tokens_decoder()
        special = {*tokenizer.special_ids, *eos_token_ids}
        special |= {token_id for token_id, token in added.items() if _is_tag(token.content)}
        if tags := tokenizer.think_tags:
            special |= {tags.open_id, tags.close_id}
        self.special_token_ids = sorted(token_id for token_id in special if token_id < vocab_size)
        self._special = frozenset(special)
        self._encoder = _without_added_tokens(tokenizer.backend)
        self._anchor = next((anchor for anchor in ("", ANCHOR) if self._encoded("x y", anchor)), None)

    def __call__(self, text: str) -> list[int]:
        cut = text[:LONGEST]
        ids = self._encoded(cut, self._anchor) if self._anchor is not None else []
        if not ids:
            return self._longest_matches(text)
        return ids if cut == text else ids[:-UNSURE]

    def spells(self, text: str) -> bool:
        """Whether there are tokens for this text: some vocabularies lack bytes that hardly ever occur."""
        data = text.encode()
        if self._single_bytes.issuperset(data):
            return True
        ids_of, longest = self._ids_of
        reached = {0}
        for at in range(len(data)):
            if at in reached:
                reached |= {at + n for n in range(1, longest + 1) if data[at : at + n] in ids_of}
        return len(data) in reached

    def _encoded(self, text: str, anchor: str) -> list[int]:
        """The tokenizer's own tokens, if they are exactly this text; else none."""
        ids: list[int] = self._encoder.encode(anchor + text, add_special_tokens=False).ids
        if not self._special.isdisjoint(ids) or max(ids, default=0) >= len(self.tokens):
            return []
        start, before = 0, b""
        while before.lstrip(b" ") != anchor.encode() and start < len(ids):
            before += self.tokens[ids[start]]
            start += 1
        ids = ids[start:]
        return ids if b"".join(self.tokens[token_id] for token_id in ids) == text.encode() else []

    def _longest_matches(self, text: str) -> list[int]:
        """For text that the tokenizer would change, by its normal form or a space in front."""
        data, at, ids = text.encode(), 0, []
        ids_of, longest = self._ids_of
        while at < len(data):
            lengths = range(min(longest, len(data) - at), 0, -1)
            length = next((n for n in lengths if data[at : at + n] in ids_of), None)
            if length is None:
                break  # there is no way to say this text
            ids.append(ids_of[data[at : at + length]])
            at += length
        return ids

    @cached_property
    def _single_bytes(self) -> frozenset[int]:
        tokens = enumerate(self.tokens)
        return frozenset(
            token[0] for token_id, token in tokens if len(token) == 1 and token_id not in self._special
        )

    @cached_property
    def _ids_of(self) -> tuple[dict[bytes, int], int]:
        ids_of = {
            token: token_id
            for token_id, token in enumerate(self.tokens)
            if token and token_id not in self._special
        }
        return ids_of, max(map(len, ids_of), default=0)


def library_tokenizer(vocabulary: Vocabulary, eos_token_ids: Sequence[int]) -> LLTokenizer:
    """llguidance's tokenizer of the model: a trie of all tokens. It holds the interpreter meanwhile."""
    from llguidance import LLTokenizer

    return LLTokenizer(vocabulary, eos_token=list(eos_token_ids))  # type: ignore[arg-type]


def strips_first_space(tokenizer: Tokenizer) -> bool:
    """Whether the text of an output lacks the space that its first token begins with (SentencePiece)."""
    ids = tokenizer.encode(" x", add_special_tokens=False)
    return b"".join(map(tokenizer.bytes_of, ids)) == b" " + tokenizer.decode(ids).encode()


def _is_tag(text: str) -> bool:
    return text.startswith("<") and text.endswith(">")


def _without_added_tokens(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same model, which finds no special token in a text that spells one."""
    import tokenizers

    encoder = tokenizers.Tokenizer(backend.model)
    if backend.normalizer is not None:
        encoder.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        encoder.pre_tokenizer = backend.pre_tokenizer
    return encoder
