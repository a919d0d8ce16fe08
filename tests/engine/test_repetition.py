"""Patterns that repeat at the end of an output."""

from __future__ import annotations

import time
from array import array

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from octavo.engine.repetition import repeats


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
    ("name", "token_ids"),
    [
        ("all different", [*range(20_000)]),
        ("almost a pattern", ([5] * 900 + [6]) * 140 + [5] * 900),
    ],
)
def test_a_token_costs_microseconds(name: str, token_ids: list[int]) -> None:
    tokens, count = array("i", token_ids), 4 if name == "all different" else 1000

    start = time.process_time()
    for _ in range(100):
        assert not repeats(tokens, 0, longest=128, count=count)

    assert time.process_time() - start < 0.1  # a thousandth of a second each, on any machine
