"""A model's conditions, as Kubernetes' API conventions have them: a pure function of what was seen.

Ready is Accepted, WorkloadReady and RoutingReady together. A model that sleeps at zero pods is Ready: its
next request is served, if later than others.
Source: Kubernetes' "API Conventions", section "Typical status properties".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from octavo.operator.count import Count
    from octavo.operator.observed import Observed, Problem

SCALED_TO_ZERO = "ScaledToZero"


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition; `status` None is Unknown."""

    type: str
    status: bool | None
    reason: str
    message: str

    @property
    def word(self) -> str:
        return {True: "True", False: "False", None: "Unknown"}[self.status]


def refused(reason: str, message: str) -> tuple[Condition, ...]:
    """Of a model whose spec cannot be served. What was made of an earlier one is left as it is."""
    accepted = Condition("Accepted", False, reason, message)
    return (Condition("Ready", False, reason, message), accepted)


def conditions(
    observed: Observed, count: Count, failure: Problem | None, rival: str | None
) -> tuple[Condition, ...]:
    """Of an accepted model.

    failure: what the API server refused to make. rival: the older resource that has the same model name.
    """
    parts = (
        Condition("Accepted", True, "Valid", "the spec can be served"),
        _workload_ready(observed, count, failure),
        _routing_ready(observed, rival),
    )
    return (
        _ready(parts),
        *parts,
        _scaling_active(count),
        _progressing(observed),
        _degraded(observed, failure),
    )


def merged(
    now: Sequence[Condition], before: Iterable[dict[str, Any]], generation: int, time: str
) -> list[dict[str, Any]]:
    """As JSON for the status: the time of a condition is that of the last change of its status."""
    known = {condition.get("type"): condition for condition in before}
    made = []
    for condition in now:
        last = known.get(condition.type, {})
        since = last.get("lastTransitionTime") if last.get("status") == condition.word else None
        made.append(
            {
                "type": condition.type,
                "status": condition.word,
                "observedGeneration": generation,
                "lastTransitionTime": since or time,
                "reason": condition.reason,
                "message": condition.message,
            }
        )
    return made


def _ready(parts: Iterable[Condition]) -> Condition:
    """The first part that does not hold gives its reason."""
    last = None
    for part in parts:
        if part.status is not True:
            return Condition("Ready", part.status, part.reason, part.message)
        if part.type == "WorkloadReady":
            last = part
    assert last
    reason = SCALED_TO_ZERO if last.reason == SCALED_TO_ZERO else "Ready"
    return Condition("Ready", True, reason, last.message)


def _workload_ready(observed: Observed, count: Count, failure: Problem | None) -> Condition:
    name = "WorkloadReady"
    pods = f"{observed.ready} of {count.desired} pods ready"
    if observed.ready > 0:
        return Condition(name, True, "PodsReady", pods)
    problem = failure or observed.problem
    if problem:
        return Condition(name, False, problem.reason, problem.message)
    if count.desired == 0 and observed.exists:
        return Condition(name, True, SCALED_TO_ZERO, "no pods; the first request starts one")
    return Condition(name, False, "Starting", pods)


def _routing_ready(observed: Observed, rival: str | None) -> Condition:
    name = "RoutingReady"
    if rival is not None:
        message = f"the model name is that of {rival}, which is older; gateways route to that one"
        return Condition(name, False, "ModelNameTaken", message)
    if observed.ready == 0:
        return Condition(name, True, "NothingToRouteTo", "requests wait at the gateways for a ready pod")
    if observed.routed > 0:
        return Condition(name, True, "Routed", "gateways see the ready pods")
    return Condition(name, False, "EndpointsPending", "no EndpointSlice lists the ready pods yet")


def _scaling_active(count: Count) -> Condition:
    if count.active:
        return Condition("ScalingActive", True, "Autoscaling", "replicas follow the load")
    return Condition("ScalingActive", False, count.reason, count.message)


def _progressing(observed: Observed) -> Condition:
    name = "Progressing"
    if observed.rolled_out:
        return Condition(name, False, "RolledOut", "all pods are ready, and as the spec has them")
    if observed.problem:
        return Condition(name, False, observed.problem.reason, observed.problem.message)
    updated = f"{observed.updated} of {observed.spec_replicas} pods are as the spec has them"
    return Condition(name, True, "RollingOut", f"{updated}; {observed.ready} pods are ready")


def _degraded(observed: Observed, failure: Problem | None) -> Condition:
    problem = failure or observed.problem
    if problem:
        return Condition("Degraded", True, problem.reason, problem.message)
    return Condition("Degraded", False, "AsExpected", "no pod tells of a problem")
