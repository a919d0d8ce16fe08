"""What pods and Deployments tell becomes one moment of a model, with the reason if something is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.operator.observed import Problem, observe, replicas_owner

NOW = 1_800_000_000.0
JUST_NOW, LONG_AGO = "2027-01-15T07:59:55Z", "2027-01-15T07:00:00Z"


def deployment(wanted: int = 1, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "small", "generation": 2},
        "spec": {"replicas": wanted},
        "status": {"observedGeneration": 2, **status},
    }


def pod(state: dict[str, Any] | None = None, *, ready: bool = False, **more: Any) -> dict[str, Any]:
    """A pod whose engine is in this state; `last` is the state before."""
    container = {"name": "engine", "ready": ready, "state": state or {}, "lastState": more.pop("last", {})}
    conditions = [{"type": "Ready", "status": str(ready)}, *more.pop("conditions", [])]
    return {
        "metadata": {"name": "small-1", **more},
        "status": {"podIP": "10.0.0.1", "containerStatuses": [container], "conditions": conditions},
    }


def problem(*pods: dict[str, Any], **status: Any) -> Problem | None:
    return observe(deployment(**status), pods, [], "octavo-operator", NOW).problem


def test_a_model_without_a_deployment_has_nothing() -> None:
    observed = observe(None, [], [], "octavo-operator", NOW)
    assert (observed.exists, observed.ready, observed.problem) == (False, 0, None)


def test_a_rollout_is_over_when_all_pods_are_new_and_ready() -> None:
    def rolled_out(**status: int) -> bool:
        return observe(deployment(2, **status), [], [], "octavo-operator", NOW).rolled_out

    assert rolled_out(replicas=2, updatedReplicas=2, readyReplicas=2)
    assert not rolled_out(replicas=3, updatedReplicas=2, readyReplicas=3)
    assert not rolled_out(replicas=2, updatedReplicas=2, readyReplicas=1)
    assert not rolled_out(replicas=2, updatedReplicas=2, readyReplicas=2, observedGeneration=1)


def test_an_image_that_cannot_be_pulled() -> None:
    found = problem(pod({"waiting": {"reason": "ImagePullBackOff", "message": "no such image: x"}}))
    assert found == Problem("ImagePullBackOff", "pod small-1, container engine: no such image: x")


def test_a_crash_loop_tells_the_engines_own_words() -> None:
    log = "loading\noctavo: '/nowhere': no such file or folder\n"
    ended = {"terminated": {"exitCode": 1, "reason": "Error", "message": log}}
    found = problem(pod({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}, last=ended))
    assert found
    assert found.reason == "CrashLoopBackOff"
    assert found.message.endswith("ended with exit code 1: octavo: '/nowhere': no such file or folder")


def test_the_frame_around_a_wrong_flag_is_not_told() -> None:
    log = "╭─ Error ─────╮\n│ No such option: --no-such-flag │\n╰─────────────╯\n"
    found = problem(pod({"terminated": {"exitCode": 2, "reason": "Error", "message": log}}))
    assert found
    assert found.message.endswith("ended with exit code 2: No such option: --no-such-flag")


def test_running_out_of_memory_is_told_until_the_pod_is_ready_again() -> None:
    killed = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    assert problem(pod({"running": {}}, last=killed)) == Problem(
        "OOMKilled", "pod small-1, container engine: ended with exit code 137 (out of memory)"
    )
    assert problem(pod({"running": {}}, ready=True, last=killed)) is None


@pytest.mark.parametrize(("since", "told"), [(JUST_NOW, False), (LONG_AGO, True)])
def test_a_pod_without_a_node_is_a_problem_after_a_while(since: str, told: bool) -> None:
    unscheduled = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "Insufficient nvidia.com/gpu",
        "lastTransitionTime": since,
    }
    waiting = pod(conditions=[unscheduled])
    del waiting["status"]["containerStatuses"]
    assert (problem(waiting) is not None) == told


def test_a_pod_that_is_going_has_no_problem() -> None:
    assert problem(pod({"terminated": {"exitCode": 137}}, deletionTimestamp="2027-01-15T08:00:00Z")) is None


def test_pods_that_may_not_be_made_are_the_deployments_problem() -> None:
    quota = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": "exceeded quota",
    }
    assert problem(conditions=[quota]) == Problem("FailedCreate", "exceeded quota")


def managed(*managers: str) -> dict[str, Any]:
    fields = {"f:spec": {"f:replicas": {}}}
    entries = [{"manager": manager, "fieldsV1": fields} for manager in managers]
    return {"metadata": {"managedFields": [*entries, {"manager": "other", "fieldsV1": {"f:status": {}}}]}}


def test_whoever_else_has_set_the_replicas_owns_them() -> None:
    assert replicas_owner(managed("octavo-operator"), "octavo-operator") is None
    assert replicas_owner(managed("octavo-operator", "kubectl"), "octavo-operator") == "kubectl"
    assert replicas_owner(managed("before-first-apply"), "octavo-operator") is None
