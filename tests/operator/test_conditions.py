"""Conditions as Kubernetes has them: what Ready is made of, and when it changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from octavo.operator.autoscaler import Memory
from octavo.operator.conditions import Condition, conditions, merged
from octavo.operator.count import Count
from octavo.operator.observed import Observed, Problem

SERVING = Observed(exists=True, spec_replicas=2, replicas=2, ready=2, updated=2, rolled_out=True, routed=2)
TWO = Count(2, "WithinTolerance", "stays 2", Memory(), active=True)
NONE = replace(TWO, desired=0)
BROKEN = Problem("ImagePullBackOff", "no such image")


def told(
    observed: Observed, count: Count = TWO, failure: Problem | None = None, rival: str | None = None
) -> dict[str, tuple[bool | None, str]]:
    made = conditions(observed, count, failure, rival)
    return {condition.type: (condition.status, condition.reason) for condition in made}


def test_all_is_well() -> None:
    assert told(SERVING) == {
        "Ready": (True, "Ready"),
        "Accepted": (True, "Valid"),
        "WorkloadReady": (True, "PodsReady"),
        "RoutingReady": (True, "Routed"),
        "ScalingActive": (True, "Autoscaling"),
        "Progressing": (False, "RolledOut"),
        "Degraded": (False, "AsExpected"),
    }


def test_a_model_that_sleeps_is_ready() -> None:
    asleep = Observed(exists=True, rolled_out=True)
    assert told(asleep, NONE)["Ready"] == (True, "ScaledToZero")


def test_a_broken_change_is_degraded_while_the_old_pods_serve() -> None:
    made = told(replace(SERVING, rolled_out=False, problem=BROKEN))
    assert made["Ready"] == (True, "Ready")
    assert made["Degraded"] == (True, "ImagePullBackOff")
    assert made["Progressing"] == (False, "ImagePullBackOff")


def test_the_first_reason_surfaces_on_ready() -> None:
    assert told(Observed(exists=True, problem=BROKEN))["Ready"] == (False, "ImagePullBackOff")
    assert told(Observed(exists=True))["Ready"] == (False, "Starting")
    assert told(replace(SERVING, routed=0))["Ready"] == (False, "EndpointsPending")
    assert told(SERVING, rival="other/older")["Ready"] == (False, "ModelNameTaken")


def test_what_the_api_server_refuses_is_told() -> None:
    made = told(Observed(), failure=Problem("Forbidden", "Deployment small: no"))
    assert made["Ready"] == (False, "Forbidden")
    assert made["Degraded"] == (True, "Forbidden")


def test_scaling_that_another_does_is_not_active() -> None:
    fixed = Count(3, "ReplicasFixed", "spec.replicas is set to 3", Memory())
    assert told(SERVING, fixed)["ScalingActive"] == (False, "ReplicasFixed")


def test_the_time_of_a_condition_is_that_of_its_last_change() -> None:
    def at(time: str, status: bool, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return merged([Condition("Ready", status, "Reason", "message")], before, 1, time)

    first = at("t1", False, [])
    still = at("t2", False, first)
    changed = at("t3", True, still)
    assert [made[0]["lastTransitionTime"] for made in (first, still, changed)] == ["t1", "t1", "t3"]
