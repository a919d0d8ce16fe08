"""Guesses out of the sequence itself: what followed when its last tokens stood there before.

Prompt lookup (Saxena, 2023). Answers that quote, edit or continue their prompt repeat much of it.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from octavo.engine.speculation.proposer import NOTHING, Outlook

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

    from octavo.engine.sequence import Sequence
    from octavo.engine.speculation.proposer import Wanted

MIN_MATCH = 2
"""One equal token says too little about the next."""
MAX_MATCH = 16
"""Longer matches are not told apart."""
MAX_CANDIDATES = 32
"""Earlier places looked at, the last ones first: a frequent pair of tokens has thousands."""
_MATCH_OF_KIND = (2, 3, 4, 8, 16)
_LONGEST_DRAFT = 64
_KINDS = tuple(
    sum(length >= least for least in _MATCH_OF_KIND) - 1 for length in range(MAX_MATCH + _LONGEST_DRAFT)
)
"""By the length of the match before a guess, which each right guess makes longer by one."""


class NgramProposer:
    """The longest match of the sequence's end with an earlier place, the latest of equally long ones.

    A guess is as good as the match before it is long, so its kind is the length's class.
    """

    num_kinds = len(_MATCH_OF_KIND)
    num_caught_up = 0
    block_bytes = 0

    def __init__(self, max_candidates: int = MAX_CANDIDATES) -> None:
        self._max_candidates = max_candidates
        self._indexes: dict[Sequence, PairIndex] = {}

    def allocate(self, num_blocks: int) -> None:
        pass

    def outlook(self, sequence: Sequence, most: int) -> Outlook:
        index = self._indexes.get(sequence)
        if index is None:
            index = self._indexes[sequence] = PairIndex()
        length = index.find(sequence.token_ids, self._max_candidates)
        return Outlook(_KINDS[length : length + most]) if length else NOTHING

    def propose(self, wanted: Items[Wanted]) -> list[list[int]]:
        return [
            continuation(sequence.token_ids, self._indexes[sequence].match, count)
            for sequence, count in wanted
        ]

    def forget(self, sequence: Sequence) -> None:
        self._indexes.pop(sequence, None)


class PairIndex:
    """Where each pair of neighbouring tokens stood, as chains from the latest place back, like those of
    deflate (RFC 1951, section 4). A new token costs O(1).

    match: the place after the last match found.
    """

    __slots__ = ("_before", "_latest", "_num_matched", "match")

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.match = 0
        self._num_matched = 0  # tokens there were when it was found
        self._latest: dict[int, int] = {}  # pair → the place after it, the latest
        self._before = array("i", (0, 0))  # place → the one before it, after the same pair; 0 for none

    def find(self, token_ids: array[int], max_candidates: int = MAX_CANDIDATES) -> int:
        """Length of the longest match of the end of `token_ids` with an earlier place, at most
        MAX_MATCH, or 0 if it is shorter than MIN_MATCH. Sets `match`."""
        end = len(token_ids)
        if end < len(self._before):  # cut back
            self._clear()
        if end < MIN_MATCH:
            return 0
        self._extend(token_ids)
        # A match that came true goes on, though more places than are looked at may lie between.
        goes_on = self.match + end - self._num_matched if self.match else end
        self.match, best = 0, MIN_MATCH - 1
        place, before = self._latest.get(token_ids[-2] << 32 | token_ids[-1], 0), self._before
        for _ in range(max_candidates):
            if not place or best == MAX_MATCH:
                break
            if (length := match_length(token_ids, place, end, best)) > best:
                self.match, best = place, length
            place = before[place]
        if goes_on < end and (length := match_length(token_ids, goes_on, end, best)) > best:
            self.match, best = goes_on, length
        self._num_matched = end
        return best if self.match else 0

    def _extend(self, token_ids: array[int]) -> None:
        """Notes every pair that another token follows."""
        latest, before = self._latest, self._before
        start = len(before)
        if start >= len(token_ids):
            return
        first = token_ids[start - 2]
        for place in range(start, len(token_ids)):
            second = token_ids[place - 1]
            pair = first << 32 | second
            before.append(latest.get(pair, 0))
            latest[pair] = place
            first = second


def match_length(token_ids: array[int], place: int, end: int, beat: int) -> int:
    """How many tokens before `place` are those before `end`, at most MAX_MATCH; where that is not more
    than `beat`, just something that is not."""
    most = min(place, MAX_MATCH)
    if beat >= most or token_ids[place - beat - 1] != token_ids[end - beat - 1]:
        return 0
    for length in range(most):
        if token_ids[place - length - 1] != token_ids[end - length - 1]:
            return length
    return most


def continuation(token_ids: array[int], place: int, count: int) -> list[int]:
    """The `count` tokens from `place` on; past the end it repeats itself, as a match that overlaps its
    own copy does in deflate."""
    draft = token_ids[place : place + count].tolist()
    for i in range(count - len(draft)):
        draft.append(draft[i])
    return draft
