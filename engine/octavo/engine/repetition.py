"""Whether an output has begun to say the same again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from array import array


def repeats(token_ids: array[int], start: int, longest: int, count: int) -> bool:
    """Whether the tokens from `start` on end with a pattern of 1 to `longest`, `count` times in a row.

    Made to be asked after every token. A pattern's last token stands one pattern earlier too, so that only
    distances at which it does are tried, and most fail with the first pair that is compared.
    """
    end = len(token_ids)
    longest = min(longest, (end - start) // count)
    if longest < 1:
        return False
    # Bytes are searched without making an integer object of each token.
    size = token_ids.itemsize
    last, before = token_ids[-1:].tobytes(), token_ids[-1 - longest : -1].tobytes()
    found = before.rfind(last)
    while found >= 0:
        if found % size == 0 and _has_period(token_ids, longest - found // size, count):
            return True
        found = before.rfind(last, 0, found + size - 1)
    return False


def _has_period(token_ids: array[int], period: int, count: int) -> bool:
    """Whether the last `period` tokens stand `count` times in a row."""
    end = len(token_ids)
    with memoryview(token_ids) as tokens:  # compared in place, up to the first difference
        return tokens[end - count * period : end - period] == tokens[end - (count - 1) * period :]
