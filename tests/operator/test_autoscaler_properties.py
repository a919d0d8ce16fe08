"""What holds for the autoscaler whatever it sees, and in a closed loop with pods that fill and queue."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from benchmarks.autoscaling_simulation import Cluster, Hardware, Requests, run
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from octavo.operator.autoscaler import Load, Memory, Observation, Pod, Policy, decide, deletion_costs
from tests.operator.autoscaling import (
    BLOCKS,
    NOW,
    pod,
    pods,
    policies,
    seen,
    settled,
    silent,
    steps,
    unready,
)

if TYPE_CHECKING:
    from octavo.operator.autoscaler import Demand

pytestmark = pytest.mark.no_cover  # the operator is not measured, only slowed

Steps = list[tuple[float, tuple[Pod, ...], tuple["Demand", ...]]]

held = st.lists(st.integers(0, BLOCKS), min_size=1, max_size=8)


def play(policy: Policy, story: Steps, replicas: int) -> list[tuple[Observation, Memory, int]]:
    """Each observation of the story, the memory before it, and the replicas decided."""
    memory, now, played = Memory(), NOW, []
    for seconds, listed, demand in story:
        now += seconds
        observation = Observation(now, replicas, listed, demand)
        decision = decide(policy, observation, memory)
        played.append((observation, memory, decision.replicas))
        replicas, memory = decision.replicas, decision.memory
    return played


class TestWhateverIsSeen:
    @given(policies, steps, st.integers(0, 60))
    def test_the_bounds_are_kept(self, policy: Policy, story: Steps, replicas: int) -> None:
        for _, _, decided in play(policy, story, replicas):
            assert policy.min_replicas <= decided <= policy.max_replicas

    @given(policies, steps, st.integers(0, 60))
    def test_the_same_observation_twice_changes_nothing(
        self, policy: Policy, story: Steps, replicas: int
    ) -> None:
        for observation, memory, decided in play(policy, story, replicas):
            once = decide(policy, observation, memory)
            again = decide(policy, observation, once.memory)
            assert again.replicas == decided
            assert again.memory == once.memory

    @given(policies, steps, st.integers(0, 60))
    def test_two_operators_with_one_memory_decide_the_same(
        self, policy: Policy, story: Steps, replicas: int
    ) -> None:
        for observation, memory, _ in play(policy, story, replicas):
            shuffled = replace(observation, pods=observation.pods[::-1])
            one, two = decide(policy, observation, memory), decide(policy, shuffled, memory)
            assert (one.replicas, one.reason) == (two.replicas, two.reason)

    @given(policies, steps, st.integers(0, 60))
    def test_every_decision_has_a_reason_and_its_numbers(
        self, policy: Policy, story: Steps, replicas: int
    ) -> None:
        for observation, memory, decided in play(policy, story, replicas):
            decision = decide(policy, observation, memory)
            assert decision.reason.isidentifier()
            change = f"stays {decided}" if decided == observation.replicas else f"→ {decided}"
            assert change in decision.message
            assert decision.limited in (
                "",
                "TooFewReplicas",
                "TooManyReplicas",
                "ScaleUpLimit",
                "Stabilizing",
            )

    @given(policies, steps, st.integers(0, 60))
    def test_zero_comes_only_from_idleness_and_ends_only_by_demand(
        self, policy: Policy, story: Steps, replicas: int
    ) -> None:
        for observation, _, decided in play(policy, story, replicas):
            loads = [each for pod in observation.pods if (each := pod.fresh_load)]
            if decided == 0:
                assert policy.min_replicas == 0
                assert observation.requests_at_gateways == 0
                if observation.replicas:
                    assert not any(load.running or load.waiting for load in loads)
            elif observation.replicas == 0:
                assert policy.min_replicas or observation.requests_at_gateways

    @given(policies, steps, st.integers(0, 60))
    def test_growth_is_limited_but_by_the_minimum(self, policy: Policy, story: Steps, replicas: int) -> None:
        for observation, _, decided in play(policy, story, replicas):
            limit = max(observation.replicas + 4, 2 * observation.replicas, policy.min_replicas)
            assert decided <= limit

    @given(policies, steps, st.integers(0, 60))
    def test_what_the_status_keeps_is_kept(self, policy: Policy, story: Steps, replicas: int) -> None:
        for observation, memory, _ in play(policy, story, replicas):
            status = decide(policy, observation, memory).memory.to_status()
            assert Memory.from_status(status).to_status() == status


class TestMoreLoad:
    @given(policies, held, st.data())
    def test_fuller_pods_are_never_fewer(
        self, policy: Policy, before: list[int], data: st.DataObject
    ) -> None:
        after = [data.draw(st.integers(level, BLOCKS)) for level in before]
        unknown = data.draw(st.lists(st.sampled_from([silent("x"), unready("y")]), unique=True))
        less, more = (
            settled(policy, seen([*(pod(str(i), h, running=1) for i, h in enumerate(levels)), *unknown]))
            for levels in (before, after)
        )
        assert less.replicas <= more.replicas

    @given(policies, st.integers(0, 50_000), st.integers(0, 50_000), st.integers(1, 6), st.integers(0, 3))
    def test_a_longer_queue_is_never_served_by_fewer(
        self, policy: Policy, tokens: int, extra: int, count: int, at_gateway: int
    ) -> None:
        def replicas(waiting_tokens: int) -> int:
            queued = pod("a", 30, running=1, waiting=1, waiting_tokens=waiting_tokens)
            others = [pod(f"b{number}", 30) for number in range(count - 1)]
            return settled(policy, seen([queued, *others], waiting_at_gateway=at_gateway)).replicas

        assert replicas(tokens) <= replicas(tokens + extra)

    @given(st.integers(0, 500), st.integers(0, 500))
    def test_more_waiting_requests_never_wake_fewer_pods(self, few: int, extra: int) -> None:
        policy = Policy(min_replicas=0, max_replicas=100)
        decisions = [
            decide(policy, seen([], waiting_at_gateway=count), Memory()) for count in (few, few + extra)
        ]
        assert decisions[0].replicas <= decisions[1].replicas


class TestUnknownPods:
    @given(held, st.integers(0, 4), st.integers(0, 4))
    def test_they_never_turn_the_direction(self, levels: list[int], silents: int, unreadies: int) -> None:
        policy = Policy(max_replicas=1000, scale_down_stabilization=0)
        known = [pod(str(number), level, running=1) for number, level in enumerate(levels)]
        alone = settled(policy, seen(known)).replicas
        unknown = [silent(f"s{n}") for n in range(silents)] + [unready(f"u{n}") for n in range(unreadies)]
        with_unknown = settled(policy, seen([*known, *unknown])).replicas
        current = len(known) + len(unknown)
        if alone > len(known):
            assert with_unknown >= current
        if alone < len(known):
            assert with_unknown <= current

    @given(held, st.integers(0, 4))
    def test_the_known_pods_always_keep_what_they_need(self, levels: list[int], silents: int) -> None:
        policy = Policy(max_replicas=1000, scale_down_stabilization=0, tolerance=0.0)
        known = [pod(str(number), level, running=1) for number, level in enumerate(levels)]
        decision = settled(policy, seen([*known, *(silent(f"s{number}") for number in range(silents))]))
        assert decision.replicas * BLOCKS * policy.target_kv_utilization >= sum(levels) - 1e-6


class TestWindows:
    @given(st.lists(st.tuples(st.floats(0.5, 60), st.integers(0, BLOCKS)), min_size=2, max_size=30))
    def test_nothing_shrinks_below_what_was_needed_within_the_window(
        self, story: list[tuple[float, int]]
    ) -> None:
        policy = Policy(max_replicas=20, scale_down_stabilization=120)
        memory, now, replicas = Memory(), NOW, 4
        needed: list[tuple[float, int]] = []
        for seconds, level in story:
            now += seconds
            full = seen([pod(str(number), level, running=1) for number in range(replicas)], now=now)
            needed.append((now, max(1, -(-replicas * level // 70))))
            decision = decide(policy, full, memory)
            if decision.replicas < replicas:
                within = [count for time, count in needed if time > now - 120]
                assert decision.replicas >= max(within)
                assert now - (NOW + story[0][0]) >= 120, "an empty history holds everything"
            replicas, memory = decision.replicas, decision.memory

    @given(policies.filter(lambda policy: policy.tolerance > 0.01), st.integers(1, 10), st.floats(-1, 1))
    def test_within_the_tolerance_the_load_changes_nothing(
        self, policy: Policy, count: int, part: float
    ) -> None:
        assume(policy.min_replicas <= count <= policy.max_replicas)
        level = policy.target_kv_utilization * (1 + part * policy.tolerance * 0.99)
        assume(level <= 1)
        blocks = 1_000_000
        load = Load(total_blocks=blocks, held_blocks=round(level * blocks), running=1)
        listed = [Pod(str(number), load=load, load_age=0.5) for number in range(count)]
        assert settled(policy, seen(listed)).replicas == count


class TestDeletion:
    @given(pods)
    def test_every_pod_has_a_cost_that_kubernetes_takes(self, listed: tuple[Pod, ...]) -> None:
        costs = deletion_costs(listed)
        assert costs.keys() == {pod.name for pod in listed}
        assert all(-(2**31) <= cost < 2**31 for cost in costs.values())

    @given(st.integers(0, BLOCKS), st.integers(0, BLOCKS))
    def test_a_fuller_pod_never_goes_before_an_emptier_one(self, one: int, other: int) -> None:
        costs = deletion_costs([pod("a", min(one, other), running=1), pod("b", max(one, other), running=1)])
        assert costs["a"] <= costs["b"]


SIMULATED = settings(derandomize=True)
"""The same simulations in every run: one takes a second."""

hardware = st.builds(
    Hardware,
    prefill_rate=st.sampled_from([2000.0, 8000.0, 30_000.0]),
    decode_rate=st.sampled_from([500.0, 2000.0, 6000.0]),
    stream_rate=st.sampled_from([20.0, 60.0]),
    seats=st.sampled_from([8.0, 64.0, 256.0]),
    kv_tokens=st.sampled_from([30_000.0, 100_000.0, 1_000_000.0]),
    startup=st.sampled_from([5.0, 30.0, 120.0]),
)
requests = st.builds(
    Requests,
    prompt=st.sampled_from([20.0, 500.0, 4000.0, 12_000.0]),
    output=st.sampled_from([1.0, 20.0, 200.0, 1000.0]),
)


class TestClosedLoop:
    @settings(SIMULATED, max_examples=8)
    @given(
        hardware,
        requests,
        st.floats(0.05, 9.0),
        st.sampled_from([1.0, 2.0, 5.0]),
        st.sampled_from([0.5, 0.7, 0.9]),
        st.sampled_from([512, 4096, 32_768]),
    )
    def test_a_constant_load_leads_to_a_constant_number_of_pods_that_clear_it(
        self, hardware: Hardware, requests: Requests, pods_worth: float, every: float, kv: float, tokens: int
    ) -> None:
        policy = Policy(max_replicas=20, target_kv_utilization=kv, target_waiting_tokens=tokens)
        cluster = Cluster(policy, requests, hardware, every=every)
        rate = pods_worth * requests.per_second(hardware)
        history = run(cluster, lambda now: rate, 6000)
        counts = {replicas for time, _, replicas, _ in history if time > 4000}
        assert len(counts) == 1, f"it still changes: {counts}"
        assert counts.pop() >= pods_worth - 0.15
        assert history[-1][3] <= max(history[4000][3], 2 * tokens * 20), "the queue does not grow"

    @settings(SIMULATED, max_examples=6)
    @given(hardware, st.floats(1.5, 8.0))
    def test_long_prompts_with_short_answers_get_pods_at_low_kv_utilisation(
        self, hardware: Hardware, pods_worth: float
    ) -> None:
        policy = Policy(max_replicas=20)
        requests = Requests(prompt=4000, output=2)
        hardware = replace(hardware, kv_tokens=1_000_000.0, seats=256.0)
        cluster = Cluster(policy, requests, hardware)
        rate = pods_worth * requests.per_second(hardware)
        history = run(cluster, lambda now: rate, 4000)
        assert (
            max(load.held_blocks for load in (p.load(requests) for p in cluster.pods)) < 0.2 * 1_000_000 / 16
        )
        assert history[-1][2] >= pods_worth
        assert history[-1][3] <= policy.target_waiting_tokens * history[-1][2]

    @settings(SIMULATED, max_examples=6)
    @given(hardware, requests, st.floats(0.5, 6.0))
    def test_a_burst_ends_where_it_began_and_silence_at_zero(
        self, hardware: Hardware, requests: Requests, pods_worth: float
    ) -> None:
        policy = Policy(min_replicas=0, max_replicas=20, scale_to_zero_after=300)
        cluster = Cluster(policy, requests, hardware, replicas=0)
        rate = pods_worth * requests.per_second(hardware)
        history = run(cluster, lambda now: rate if 100 <= now < 700 else 0.0, 6000)
        assert {replicas for time, _, replicas, _ in history if time < 100} == {0}
        assert history[700][2] >= 1
        assert history[-1][2] == 0
        assert history[-1][3] < 1, "everything was served"
