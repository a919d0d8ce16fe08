"""Scorers: each a number in 0..1 that never rises as a pod gets fuller."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.service.gateway.scorers import (
    DEFAULT_WEIGHTS,
    LOAD_SCORERS,
    STALE_AFTER,
    PodView,
    RoutingPolicy,
    kv_utilization,
    load_scores,
    running_requests,
    session_affinity,
    waiting_tokens,
)

counts = st.integers(0, 10**6)
views = st.builds(
    PodView,
    total_blocks=counts,
    held_blocks=counts,
    running=counts,
    waiting=counts,
    waiting_tokens=counts,
    max_num_seqs=st.integers(0, 4096),
    prefill_tokens=counts,
    block_size=st.integers(1, 256),
    pending_requests=counts,
    pending_tokens=counts,
    age=st.floats(0, STALE_AFTER),
)
FILLS = (
    "prefill_tokens",
    "held_blocks",
    "running",
    "waiting",
    "waiting_tokens",
    "pending_requests",
    "pending_tokens",
)
every_scorer = pytest.mark.parametrize("scorer", LOAD_SCORERS.values(), ids=LOAD_SCORERS)

IDLE = PodView(total_blocks=1000, held_blocks=0, running=0, waiting=0, waiting_tokens=0, max_num_seqs=64)


@every_scorer
@given(view=views)
def test_a_score_is_between_0_and_1(scorer: Callable[[PodView], float], view: PodView) -> None:
    assert 0 <= scorer(view) <= 1


@every_scorer
@given(view=views, field=st.sampled_from(FILLS), more=st.integers(1, 10**6))
def test_a_fuller_pod_never_scores_higher(
    scorer: Callable[[PodView], float], view: PodView, field: str, more: int
) -> None:
    fuller = view._replace(**{field: getattr(view, field) + more})
    assert scorer(fuller) <= scorer(view)


@every_scorer
def test_an_idle_pod_scores_1(scorer: Callable[[PodView], float]) -> None:
    assert scorer(IDLE) == 1


@given(view=views, late=st.floats(0.001, 1000))
def test_a_report_older_than_two_seconds_counts_as_that_of_a_full_pod(view: PodView, late: float) -> None:
    assert set(load_scores(view._replace(age=STALE_AFTER + late)).values()) == {0.0}


def test_kv_utilization_counts_what_waits_and_what_is_on_its_way() -> None:
    view = IDLE._replace(held_blocks=500, waiting_tokens=1600, pending_tokens=800, pending_requests=2)
    assert kv_utilization(view) == pytest.approx(1 - (500 + 100 + 50 + 2) / 1000)


def test_a_pod_without_blocks_has_none_free() -> None:
    assert kv_utilization(IDLE._replace(total_blocks=0)) == 0


def test_a_full_step_of_waiting_tokens_halves_the_score() -> None:
    view = IDLE._replace(prefill_tokens=500, waiting_tokens=1000, pending_tokens=548)
    assert waiting_tokens(view) == 0.5


def test_a_full_batch_halves_the_score() -> None:
    assert running_requests(IDLE._replace(running=60, waiting=3, pending_requests=1)) == 0.5


def test_of_two_overloaded_pods_the_one_with_less_before_it_scores_higher() -> None:
    assert waiting_tokens(IDLE._replace(waiting_tokens=10**6)) > waiting_tokens(
        IDLE._replace(waiting_tokens=2 * 10**6)
    )


def test_affinity_halves_from_a_session_s_pod_to_the_next() -> None:
    assert [session_affinity(rank, 1000) for rank in range(3)] == [1 / 2, 1 / 4, 1 / 8]


@given(rank=st.integers(0, 9), tokens=st.integers(1, 10**6))
def test_affinity_grows_with_what_a_cache_may_save(rank: int, tokens: int) -> None:
    assert 0 < session_affinity(rank, tokens) < session_affinity(rank, tokens + 1000) < 1


def test_affinity_of_a_prompt_of_unknown_length_counts_half() -> None:
    assert session_affinity(0, 0) == 0.5


def test_weights_that_are_not_given_keep_their_defaults() -> None:
    policy = RoutingPolicy({"kvUtilization": 7.0})
    assert policy.weight("kvUtilization") == 7
    assert policy.weight("waitingTokens") == DEFAULT_WEIGHTS["waitingTokens"]


def test_affinity_can_be_turned_off_by_its_switch_or_by_its_weight() -> None:
    assert RoutingPolicy(session_affinity=False).weight("sessionAffinity") == 0
    assert RoutingPolicy({"sessionAffinity": 0.0}).weight("sessionAffinity") == 0
