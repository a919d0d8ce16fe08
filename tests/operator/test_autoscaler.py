"""How many replicas the autoscaler asks for, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from octavo.operator.autoscaler import Demand, Load, Memory, Observation, Pod, Policy, decide, deletion_costs
from tests.operator.autoscaling import NOW, later, pod, seen, settled, silent, unready, watched

POLICY = Policy(min_replicas=1, max_replicas=10, target_kv_utilization=0.7, target_waiting_tokens=1000)
TO_ZERO = replace(POLICY, min_replicas=0, scale_to_zero_after=600)


class TestKVUtilization:
    def test_pods_fuller_than_the_target_get_help(self) -> None:
        decision = decide(POLICY, seen([pod("a", 91), pod("b", 92), pod("c", 90)]), Memory())
        assert (decision.replicas, decision.reason) == (4, "KVUtilizationAboveTarget")
        assert decision.message == "KV utilisation 0.91 over 3 pods, target 0.70: 3 → 4"

    def test_blocks_are_summed_over_pods_of_different_sizes(self) -> None:
        big = Pod("big", load=Load(total_blocks=1000, held_blocks=500), load_age=0.5)
        small = Pod("small", load=Load(total_blocks=10, held_blocks=10), load_age=0.5)
        decision = settled(POLICY, seen([big, small]))
        assert decision.replicas == 2, (
            "the mean of 0.5 and 1.0 is above the target, 510 of 1010 blocks are not"
        )

    def test_emptier_pods_than_the_target_become_fewer(self) -> None:
        decision = settled(POLICY, seen([pod(name, 20) for name in "abcd"]))
        assert (decision.replicas, decision.reason) == (2, "LoadBelowTarget")

    @pytest.mark.parametrize("held", [64, 70, 77])
    def test_within_the_tolerance_nothing_changes(self, held: int) -> None:
        decision = settled(POLICY, seen([pod(name, held) for name in "abcdefgh"]))
        assert (decision.replicas, decision.reason) == (8, "WithinTolerance")

    def test_the_pods_that_leave_do_not_count(self) -> None:
        leaving = replace(pod("b", 100), terminating=True)
        draining = Pod("c", load=Load(total_blocks=100, held_blocks=100, draining=True), load_age=0.5)
        assert settled(POLICY, seen([pod("a", 50), leaving, draining], replicas=1)).replicas == 1


class TestWaitingTokens:
    def test_a_queue_above_the_target_asks_for_pods_though_kv_is_low(self) -> None:
        decision = decide(POLICY, seen([pod("a", 5, waiting=3, waiting_tokens=2500)]), Memory())
        assert (decision.replicas, decision.reason) == (3, "WaitingTokensAboveTarget")
        assert decision.message == "2500 waiting tokens over 1 pod, target 1000 a pod: 1 → 3"

    def test_requests_at_gateways_are_taken_for_what_requests_usually_are(self) -> None:
        busy = pod("a", 5, total_requests=10, total_prompt_tokens=4000)
        decision = decide(POLICY, seen([busy], waiting_at_gateway=10), Memory())
        assert decision.replicas == 4, "10 requests of 400 tokens"

    def test_a_gateway_that_stopped_renewing_does_not_count(self) -> None:
        observation = Observation(NOW, 1, (pod("a", 5),), (Demand(1000, age=15.1),))
        assert decide(POLICY, observation, Memory()).replicas == 1


class TestPodsThatAreNotKnown:
    def test_pods_that_start_are_counted_as_help_under_way(self) -> None:
        starting = [unready(name) for name in "bcd"]
        assert settled(POLICY, seen([pod("a", 100), *starting])).replicas == 4

    def test_pods_that_are_not_even_created_are_too(self) -> None:
        assert settled(POLICY, seen([pod("a", 100)], replicas=4)).replicas == 4

    def test_a_silent_pod_is_taken_for_empty_when_more_are_asked_for(self) -> None:
        without = decide(POLICY, seen([pod("a", 100), pod("b", 100)]), Memory())
        with_silent = decide(POLICY, seen([pod("a", 100), pod("b", 100), silent("c")]), Memory())
        assert (without.replicas, with_silent.replicas) == (3, 3)

    def test_a_silent_pod_is_taken_for_just_full_enough_when_fewer_are(self) -> None:
        decision = settled(POLICY, seen([pod("a", 5), pod("b", 5), silent("c"), silent("d")]))
        assert decision.replicas == 3, "0.1 pods' worth and the two"

    def test_nothing_changes_when_all_are_silent(self) -> None:
        decision = settled(POLICY, seen([silent("a"), silent("b"), unready("c")]))
        assert (decision.replicas, decision.reason) == (3, "MissingLoad")
        assert decision.message == "no load is known of any pod (2 silent, 1 not ready): stays 3"

    def test_a_pod_that_tells_its_load_counts_though_its_kubelet_calls_it_unready(self) -> None:
        cut_off = replace(pod("a", 100), ready=False)
        assert decide(POLICY, seen([cut_off, pod("b", 100)]), Memory()).replicas == 3


class TestStabilization:
    def test_one_high_recommendation_holds_the_pods_for_the_window(self) -> None:
        full, empty = seen([pod(name, 70) for name in "abcd"]), seen([pod(name, 0) for name in "abcd"])
        memory = decide(POLICY, full, Memory()).memory
        for seconds in range(1, 300, 60):
            decision = decide(POLICY, later(empty, seconds), memory)
            memory = decision.memory
            assert (decision.replicas, decision.reason) == (4, "Stabilizing")
        decision = decide(POLICY, later(empty, 300), memory)
        assert (decision.replicas, decision.reason) == (1, "LoadBelowTarget")

    def test_an_operator_that_has_just_started_shrinks_nothing_before_a_window_has_passed(self) -> None:
        empty = seen([pod(name, 0) for name in "abcd"])
        first = decide(POLICY, empty, Memory())
        assert (first.replicas, first.limited) == (4, "Stabilizing")
        assert watched(POLICY, empty, Memory(), 299).replicas == 4
        assert watched(POLICY, empty, Memory(), 300).replicas == 1

    def test_nor_does_one_that_has_not_looked_for_long(self) -> None:
        empty = seen([pod(name, 0) for name in "abcd"])
        memory = decide(POLICY, empty, Memory()).memory
        decision = decide(POLICY, later(empty, 3600), memory)
        assert decision.replicas == 4
        assert watched(POLICY, later(empty, 3600), decision.memory, 300).replicas == 1

    def test_nor_does_one_that_has_just_woken_the_model(self) -> None:
        memory = decide(TO_ZERO, seen([], waiting_at_gateway=5), Memory()).memory
        served = seen([pod(name, 0, running=1) for name in "abc"])
        assert decide(TO_ZERO, later(served, 20), memory).replicas == 3

    def test_the_up_window_waits_until_the_load_has_lasted(self) -> None:
        policy = replace(POLICY, scale_up_stabilization=30)
        calm, full = seen([pod("a", 50)]), seen([pod("a", 100)])
        memory = decide(policy, calm, Memory()).memory
        decision = decide(policy, later(full, 10), memory)
        assert (decision.replicas, decision.reason) == (1, "Stabilizing")
        assert decide(policy, later(full, 31), decision.memory).replicas == 2

    def test_a_shrinking_stops_at_the_most_of_the_window(self) -> None:
        half = seen([pod(name, 35) for name in "abcd"])
        memory = watched(POLICY, half, Memory(), 250).memory
        decision = decide(POLICY, later(seen([pod(name, 0) for name in "abcd"]), 300), memory)
        assert (decision.replicas, decision.limited) == (2, "Stabilizing")

    def test_growth_is_at_most_four_pods_or_twofold_in_15_seconds(self) -> None:
        policy = replace(POLICY, max_replicas=100)
        replicas, memory, sizes = 1, Memory(), []
        for second in range(0, 40, 5):
            flood = seen([pod("a", waiting=99, waiting_tokens=90_000)], replicas=replicas, now=NOW + second)
            decision = decide(policy, flood, memory)
            replicas, memory = decision.replicas, decision.memory
            sizes.append(replicas)
        assert sizes == [5, 5, 5, 10, 10, 10, 20, 20]

    def test_a_growth_that_is_cut_says_so(self) -> None:
        decision = decide(POLICY, seen([pod("a", waiting=9, waiting_tokens=9000)]), Memory())
        assert (decision.replicas, decision.limited) == (5, "ScaleUpLimit")
        assert decision.message.endswith(
            "1 → 5 (9 wanted, but growth within 15 s is at most 4 pods or 2 times)"
        )


class TestBounds:
    def test_no_load_makes_more_than_the_most(self) -> None:
        flood = seen([pod(str(number), 100) for number in range(10)])
        decision = decide(POLICY, flood, Memory())
        assert (decision.replicas, decision.reason) == (10, "TooManyReplicas")

    def test_a_lower_bound_that_rises_wins_at_once(self) -> None:
        policy = replace(POLICY, min_replicas=8, scale_up_stabilization=30)
        decision = decide(policy, seen([pod("a", 0)]), Memory())
        assert (decision.replicas, decision.reason) == (8, "TooFewReplicas")

    def test_an_upper_bound_that_falls_wins_at_once(self) -> None:
        policy = replace(POLICY, max_replicas=2)
        decision = decide(policy, seen([pod(name, 100) for name in "abcd"]), Memory())
        assert (decision.replicas, decision.reason) == (2, "TooManyReplicas")

    def test_a_policy_that_contradicts_itself_is_refused_by_name(self) -> None:
        with pytest.raises(ValueError, match=r"max_replicas 2 must be ≥ 1 and ≥ min_replicas"):
            Policy(min_replicas=3, max_replicas=2)
        with pytest.raises(ValueError, match=r"target_kv_utilization 1.5 must be in \(0, 1\]"):
            Policy(target_kv_utilization=1.5)


class TestZero:
    def test_an_idle_model_goes_to_zero_after_its_time_and_not_before(self) -> None:
        idle = seen([pod("a"), pod("b")])
        before = watched(TO_ZERO, idle, Memory(), 599)
        assert before.replicas == 1
        after = decide(TO_ZERO, later(idle, 600), before.memory)
        assert (after.replicas, after.reason) == (0, "Idle")

    def test_idleness_outruns_the_stabilisation_window(self) -> None:
        policy = replace(TO_ZERO, scale_to_zero_after=10)
        memory = decide(policy, seen([pod(name, 70, running=5) for name in "abc"]), Memory()).memory
        idle = seen([pod(name) for name in "abc"])
        memory = decide(policy, later(idle, 5), memory).memory
        assert decide(policy, later(idle, 15), memory).replicas == 0

    @pytest.mark.parametrize("busy", [{"running": 1}, {"waiting": 1}, {"total_requests": 1}])
    def test_any_request_starts_the_time_anew_even_one_that_came_and_went_unseen(
        self, busy: dict[str, int]
    ) -> None:
        memory = decide(TO_ZERO, seen([pod("a")]), Memory()).memory
        memory = decide(TO_ZERO, later(seen([pod("a", **busy)]), 500), memory).memory
        quiet = seen([pod("a", total_requests=busy.get("total_requests", 0))])
        memory = decide(TO_ZERO, later(quiet, 501), memory).memory
        assert decide(TO_ZERO, later(quiet, 1099), memory).replicas == 1
        assert decide(TO_ZERO, later(quiet, 1101), memory).replicas == 0

    def test_a_held_turn_does_not_keep_a_pod_for_ever(self) -> None:
        held = seen([pod("a", held=40)])
        memory = decide(TO_ZERO, held, Memory()).memory
        assert decide(TO_ZERO, later(held, 600), memory).replicas == 0

    def test_a_ready_pod_that_is_silent_may_be_serving(self) -> None:
        idle = seen([pod("a")])
        memory = decide(TO_ZERO, idle, Memory()).memory
        unknown = decide(TO_ZERO, later(seen([silent("a")]), 700), memory)
        assert unknown.replicas == 1
        assert decide(TO_ZERO, later(idle, 701), unknown.memory).replicas == 0, "it was idle all the time"

    def test_a_pod_that_never_came_up_serves_nobody(self) -> None:
        broken = seen([unready("a")])
        memory = decide(TO_ZERO, broken, Memory()).memory
        assert decide(TO_ZERO, later(broken, 600), memory).replicas == 0

    def test_a_minimum_above_zero_is_kept_however_idle(self) -> None:
        assert settled(replace(POLICY, scale_to_zero_after=0), seen([pod("a")])).replicas == 1

    def test_without_demand_zero_stays_zero(self) -> None:
        decision = decide(TO_ZERO, seen([]), Memory())
        assert (decision.replicas, decision.reason) == (0, "Idle")

    def test_the_first_waiting_request_wakes_one_pod_at_once(self) -> None:
        policy = replace(TO_ZERO, scale_up_stabilization=600)
        decision = decide(policy, seen([], waiting_at_gateway=1), Memory())
        assert (decision.replicas, decision.reason) == (1, "Demand")

    def test_many_waiting_requests_wake_as_many_pods_as_they_need(self) -> None:
        decision = decide(TO_ZERO, seen([], waiting_at_gateway=5), Memory())
        assert decision.replicas == 3, "5 requests of 512 tokens, 1000 a pod"

    def test_the_pods_of_a_model_at_zero_that_still_end_do_not_wake_it(self) -> None:
        ending = replace(pod("a", 50, running=3), terminating=True)
        assert decide(TO_ZERO, seen([ending], replicas=0), Memory()).replicas == 0

    def test_a_woken_model_is_not_idle_while_its_pod_starts(self) -> None:
        waking = seen([unready("a")], waiting_at_gateway=1)
        decision = settled(replace(TO_ZERO, scale_to_zero_after=0), waking)
        assert decision.replicas == 1


class TestRestart:
    def test_the_time_of_idleness_goes_on_if_no_request_came_meanwhile(self) -> None:
        idle = seen([pod("a", total_requests=7)])
        memory = Memory.from_status(decide(TO_ZERO, idle, Memory()).memory.to_status())
        assert decide(TO_ZERO, later(idle, 600), memory).replicas == 0

    def test_and_starts_anew_if_one_did(self) -> None:
        memory = decide(TO_ZERO, seen([pod("a", total_requests=7)]), Memory()).memory
        memory = Memory.from_status(memory.to_status())
        assert decide(TO_ZERO, later(seen([pod("a", total_requests=8)]), 600), memory).replicas == 1

    def test_a_new_operator_waits_for_the_first_loads(self) -> None:
        idle = seen([pod("a", total_requests=7)])
        memory = Memory.from_status(decide(TO_ZERO, idle, Memory()).memory.to_status())
        decision = decide(TO_ZERO, later(seen([silent("a")]), 599), memory)
        assert decide(TO_ZERO, later(idle, 601), decision.memory).replicas == 0

    @pytest.mark.parametrize(
        "status",
        [
            {},
            {
                "lastScaleTime": "yesterday",
                "idleSince": 7,
                "requestsBeforeIdle": "many",
                "podTokensPerSecond": True,
            },
            {"idleSince": "2026-01-01T00:00:00", "podTokensPerSecond": -1.0, "generatedPercent": 7},
            {
                "podTokensPerSecond": float("nan"),
                "generatedPercent": 7,
                "promptTokensPerRequest": float("inf"),
            },
            {"podTokensPerSecond": 100, "generatedPercent": 700, "promptTokensPerRequest": None},
        ],
    )
    def test_a_status_that_somebody_spoilt_is_no_memory(self, status: dict[str, object]) -> None:
        assert Memory.from_status(status) == Memory()


class TestDeletionCosts:
    def test_the_emptiest_pod_goes_first(self) -> None:
        pods = [
            pod("full", 95, running=9),
            pod("half", 45, running=5),
            pod("idle"),
            unready("down"),
            silent("mute"),
        ]
        costs = deletion_costs(pods)
        assert costs["down"] < costs["idle"] < costs["half"] <= costs["mute"] < costs["full"]

    def test_a_pod_that_serves_one_short_request_is_not_an_idle_one(self) -> None:
        assert deletion_costs([pod("a", 0, running=1), pod("b", 0)]) == {"a": 10, "b": 0}

    def test_small_changes_of_load_do_not_change_a_cost(self) -> None:
        assert len({deletion_costs([pod("a", held, running=1)])["a"] for held in range(41, 51)}) == 1
