"""How often, and for how long, requests are tried again."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.service.gateway.retry import DEPOSIT, LONGEST_PAUSE, Attempts, RetryBudget, RetrySettings

SETTINGS = RetrySettings(max_attempts=4, patience=10.0, budget=8.0, budget_per_second=2.0)


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def budget(clock: Clock) -> RetryBudget:
    return RetryBudget(SETTINGS, clock)


def attempts(budget: RetryBudget, clock: Clock, **settings: float) -> Attempts:
    return Attempts(replace(SETTINGS, **settings), budget, clock)


def test_the_first_retry_is_made_at_once_and_the_next_ones_after_growing_pauses(
    budget: RetryBudget, clock: Clock
) -> None:
    one = attempts(budget, clock)
    assert [one.after(pod, progress=False) for pod in "abc"] == [0.0, 0.05, 0.1]


def test_after_enough_attempts_without_progress_a_request_is_given_up(
    budget: RetryBudget, clock: Clock
) -> None:
    one = attempts(budget, clock)
    assert [one.after(pod, progress=False) is None for pod in "abcd"] == [False, False, False, True]


def test_a_stream_that_makes_progress_earns_its_attempts_back(budget: RetryBudget, clock: Clock) -> None:
    one = attempts(budget, clock)
    assert all(one.after("a", progress=True) == 0.0 for _ in range(100))
    assert budget.wait() == 0.0


def test_the_pods_that_have_failed_are_known_until_there_is_progress(
    budget: RetryBudget, clock: Clock
) -> None:
    one = attempts(budget, clock)
    one.after("a", progress=False)
    one.after("b", progress=False)
    assert one.tried == {"a", "b"}
    one.after("c", progress=True)
    assert one.tried == {"c"}


def test_patience_counts_from_the_first_failure_without_progress(budget: RetryBudget, clock: Clock) -> None:
    one = attempts(budget, clock)
    assert one.after("a", progress=True) == 0.0
    clock.now += 9.0
    assert one.remaining == 1.0
    assert one.after("b", progress=False) is not None
    clock.now += 1.0
    assert one.after("c", progress=False) is None
    assert one.remaining == 0.0


def test_full_pods_do_not_count_as_attempts(clock: Clock) -> None:
    settings = replace(SETTINGS, budget=1000.0)
    one = Attempts(settings, RetryBudget(settings, clock), clock)
    assert all(one.after("a", progress=False, busy=True) is not None for _ in range(20))


def test_once_the_budget_is_spent_retries_wait_for_it_one_after_the_other(
    budget: RetryBudget, clock: Clock
) -> None:
    pauses = [attempts(budget, clock).after("a", progress=False) for _ in range(11)]
    assert pauses == [0.0] * 8 + [0.5, 1.0, 1.5]


def test_who_would_wait_for_the_budget_too_long_is_given_up_and_takes_nothing(
    budget: RetryBudget, clock: Clock
) -> None:
    for _ in range(8):
        budget.take()
    hurried = attempts(budget, clock, patience=0.4)
    before = budget.wait()
    assert hurried.after("a", progress=False) is None
    assert budget.wait() == before


def test_requests_that_end_well_pay_into_the_budget(budget: RetryBudget) -> None:
    for _ in range(8):
        budget.take()
    for _ in range(round(1 / DEPOSIT)):
        budget.deposit()
    assert budget.wait() == pytest.approx(0.0, abs=1e-9)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=300))
def test_no_fleet_is_hammered(events: list[tuple[float, bool]]) -> None:
    """Retries in any time are at most the budget, what the time brings, and a share of what ends well."""
    clock = Clock()
    budget = RetryBudget(SETTINGS, clock)
    made: list[float] = []
    deposits = 0
    for pause, ends_well in events:
        clock.now += pause
        if ends_well:
            budget.deposit()
            deposits += 1
        elif (after := attempts(budget, clock).after("a", progress=False)) is not None:
            made.append(clock.now + after)
    if made:
        took = max(made) - 100.0
        most = SETTINGS.budget + took * SETTINGS.budget_per_second + deposits * DEPOSIT
        assert len(made) <= most + 1e-6


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 3)), max_size=50))
def test_no_pause_is_longer_than_patience_or_the_longest_pause(
    failures: list[tuple[bool, bool, float]],
) -> None:
    clock = Clock()
    one = attempts(RetryBudget(SETTINGS, clock), clock)
    for progress, busy, took in failures:
        clock.now += took
        pause = one.after("a", progress=progress, busy=busy)
        if pause is None:
            return
        assert 0.0 <= pause <= one.remaining + 1e-9
        assert pause <= max(LONGEST_PAUSE, SETTINGS.patience)
        clock.now += pause
