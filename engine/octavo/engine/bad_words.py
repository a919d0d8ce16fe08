"""Words that an output must not have: as tokens, and which token would complete one."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from array import array
    from collections.abc import Sequence

    from octavo.engine.tokenizer import Tokenizer

LEADS = ("\n", ".", "0")
"""Texts to tokenise others behind, that mostly do not merge with what follows."""


def bad_word_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Each text as it is tokenised at the start of a word, behind a space, and within one. No form twice.

    Spaces in front of a text count for nothing, as in `SamplingParams.update_from_tokenizer` of vLLM,
    which however forgets the first form unless it has as many tokens as the other. A text of spaces alone
    has one form, itself.
    """
    found: dict[tuple[int, ...], None] = {}
    for text in texts:
        word = text.lstrip()
        for form in (f" {word}", word) if word else (text,):
            if ids := _inside(tokenizer, form):
                found[ids] = None
    return tuple(found)


def _inside(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """`text` as it is tokenised behind other text, where SentencePiece puts no space in front of it."""
    for lead in LEADS:
        before = tokenizer.encode(lead, add_special_tokens=False)
        both = tokenizer.encode(lead + text, add_special_tokens=False)
        ids = both[len(before) :]
        if both[: len(before)] == before and b"".join(map(tokenizer.bytes_of, ids)) == text.encode():
            return tuple(ids)
    # It merges with all of them, or the tokenizer changes it.
    return tuple(tokenizer.encode(text, add_special_tokens=False))


class BadWords:
    """Sequences of tokens that must not be completed, in the prompt or the output or where they meet.

    As Transformers' NoBadWordsLogitsProcessor matches them.
    """

    def __init__(self, words: Sequence[Sequence[int]]) -> None:
        """words: none of them empty."""
        self._always = list(dict.fromkeys(word[0] for word in words if len(word) == 1))
        self._after: dict[int, list[tuple[tuple[int, ...], int]]] = defaultdict(list)
        for *first, last in words:
            if first and last not in self._always:
                self._after[first[-1]].append((tuple(first), last))
        self._longest = max((len(word) - 1 for word in words), default=0)

    def forbidden(self, token_ids: array[int], extra: Sequence[int] = ()) -> list[int]:
        """The last tokens of those whose others are the end of `token_ids` and `extra`, each token once.

        O(number of words that end with one token, and total length of those that have the last one of
        `extra` as the last but one).
        """
        if not self._after:
            return list(self._always)
        end = (*token_ids[-self._longest :], *extra)
        words = self._after.get(end[-1], ()) if end else ()
        return self._always + list({last: None for first, last in words if end[-len(first) :] == first})
