"""Prompt lookup: what followed the last tokens when they stood there before."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from octavo.engine.speculation.ngram import MAX_MATCH, MIN_MATCH, NgramProposer
from octavo.engine.speculation.proposer import NOTHING

from .conftest import Text, text


def guesses(proposer: NgramProposer, sequence: Text, most: int = 8) -> list[int]:
    outlook = proposer.outlook(sequence, most)
    return proposer.propose([(sequence, len(outlook.kinds))])[0] if outlook.kinds else []


def longest_match(tokens: list[int]) -> int | None:
    """The place after the latest of the longest matches of the end, by looking everywhere."""
    for length in range(min(MAX_MATCH, len(tokens)), MIN_MATCH - 1, -1):
        for place in range(len(tokens) - 1, length - 1, -1):
            if tokens[place - length : place] == tokens[-length:]:
                return place
    return None


def looked_up(tokens: list[int], most: int) -> list[int]:
    place = longest_match(tokens)
    if place is None:
        return []
    tokens = tokens[:]
    for i in range(most):
        tokens.append(tokens[place + i])
    return tokens[-most:]


pieces = st.lists(st.integers(0, 3), max_size=12)
changes = st.lists(st.one_of(pieces, st.integers(0, 40)), max_size=20)


@given(changes, st.integers(1, 12))
def test_it_finds_what_a_search_of_all_finds(changes: list[list[int] | int], most: int) -> None:
    """The text grows by pieces of tokens, and is cut back to lengths."""
    proposer, sequence = NgramProposer(max_candidates=10**6), text()
    for change in changes:
        if isinstance(change, int):
            del sequence.token_ids[change:]
        else:
            sequence.token_ids.extend(change)
        assert guesses(proposer, sequence, most) == looked_up(sequence.token_ids.tolist(), most)


@given(changes)
def test_cuts_that_it_did_not_see_do_no_harm(changes: list[list[int] | int]) -> None:
    proposer, sequence = NgramProposer(), text()
    for change in changes:
        if isinstance(change, int):
            kept = sequence.token_ids[:change]
            sequence.token_ids = kept + array("i", [9] * (len(sequence.token_ids) - len(kept)))
        else:
            sequence.token_ids.extend(change)
        found = guesses(proposer, sequence)
        assert len(found) in (0, 8)
        assert set(found) <= set(sequence.token_ids)


def test_the_longer_match_wins_over_the_later_one() -> None:
    assert guesses(NgramProposer(), text(1, 2, 3, 70, 71, 9, 2, 3, 80, 81, 1, 2, 3), 2) == [70, 71]


def test_the_later_one_wins_among_equals() -> None:
    assert guesses(NgramProposer(), text(2, 3, 70, 8, 2, 3, 80, 9, 2, 3), 1) == [80]


def test_a_text_that_runs_in_circles_is_guessed_beyond_its_end() -> None:
    assert guesses(NgramProposer(), text(5, 6, 7, 5, 6, 7), 8) == [5, 6, 7, 5, 6, 7, 5, 6]


def test_one_equal_token_is_not_enough() -> None:
    assert NgramProposer().outlook(text(1, 2, 3, 1), 8) == NOTHING


def test_the_longer_the_match_the_higher_the_kind() -> None:
    start = list(range(100, 130))
    kinds = [
        NgramProposer().outlook(text(*start, 9, *start[:length]), 8).kinds for length in (2, 3, 4, 8, 16)
    ]
    assert [each[0] for each in kinds] == [0, 1, 2, 3, 4]
    assert kinds[0] == (0, 1, 2, 2, 2, 2, 3, 3), "each right guess makes the match longer"


def test_a_match_goes_on_though_its_end_stands_in_many_places() -> None:
    """`1, 2` follows in the original and a hundred times later; only two places are looked at."""
    original = [50, 51, 52, 53, 1, 2, 60, 61]
    sequence, proposer = (
        text(*original, *[1, 2, 9] * 100, 50, 51, 52, 53),
        NgramProposer(max_candidates=2),
    )
    assert guesses(proposer, sequence, 4) == [1, 2, 60, 61]
    sequence.token_ids.extend((1, 2))
    assert guesses(proposer, sequence, 2) == [60, 61]


def test_what_it_forgets_it_learns_again() -> None:
    proposer, sequence = NgramProposer(), text(1, 2, 3, 1, 2)
    assert guesses(proposer, sequence, 1) == [3]
    proposer.forget(sequence)
    proposer.forget(sequence)
    assert guesses(proposer, sequence, 1) == [3]
