"""Patterns that repeat at the end of an output."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from octavo.engine import repetition
from octavo.engine.repetition import _has_period, repeats


def naive(token_ids: list[int], start: int, longest: int, count: int) -> bool:
    output = token_ids[start:]
    return any(
        len(output) >= length * count and output[-length * count :] == output[-length:] * count
        for length in range(1, longest + 1)
    )


@given(
    st.lists(st.integers(0, 2), max_size=12),
    st.lists(st.sampled_from([0, 1, 256, 2**24]), min_size=1, max_size=6),
    st.integers(0, 6),
    st.integers(0, 12),
    st.integers(1, 8),
    st.integers(2, 6),
)
@example([1], [0, 256], 3, 0, 4, 3)  # bytes that look like a token between two others
def test_it_is_as_the_definition_says(
    before: list[int], pattern: list[int], times: int, start: int, longest: int, count: int
) -> None:
    token_ids = before + pattern * times
    start = min(start, len(token_ids))

    assert repeats(array("i", token_ids), start, longest, count) == naive(token_ids, start, longest, count)


@pytest.mark.parametrize(("start", "expected"), [(0, True), (1, True), (2, False)])
def test_the_prompt_is_no_part_of_a_pattern(start: int, expected: bool) -> None:
    assert repeats(array("i", [9, 1, 2, 1, 2, 1, 2]), start, longest=2, count=3) == expected


def test_an_array_may_grow_after_it_was_looked_at() -> None:
    token_ids = array("i", [7, 7])
    assert repeats(token_ids, 0, longest=1, count=2)
    token_ids.append(8)
    assert not repeats(token_ids, 0, longest=1, count=2)


@pytest.mark.parametrize(
    ("token_ids", "count", "compared"),
    [
        pytest.param([*range(20_000)], 4, 0, id="all different"),
        pytest.param([5, 6] * 10_000 + [7], 4, 0, id="a new token after a pattern"),
        pytest.param([*range(100)] * 90 + [100] + [*range(100)] * 3, 4, 1, id="a pattern, not often enough"),
        pytest.param(([5] * 900 + [6]) * 140 + [5] * 900, 1000, 127, id="one token, not often enough"),
    ],
)
def test_only_distances_at_which_the_last_token_stands_are_compared(
    monkeypatch: pytest.MonkeyPatch, token_ids: list[int], count: int, compared: int
) -> None:
    periods = []

    def has_period(token_ids: array[int], period: int, count: int) -> bool:
        periods.append(period)
        return _has_period(token_ids, period, count)

    monkeypatch.setattr(repetition, "_has_period", has_period)
    assert not repeats(array("i", token_ids), 0, longest=128, count=count)
    assert len(periods) == compared
