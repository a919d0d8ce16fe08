"""A model's status: one typed value, made in one place, written in one place."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from octavo.operator.conditions import merged
from octavo.operator.desired.identity import selector_string

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from octavo.operator.autoscaler import Load
    from octavo.operator.conditions import Condition
    from octavo.operator.count import Count
    from octavo.operator.model import InferenceModel
    from octavo.operator.observed import Observed

NOISE = ("kvUtilization", "kvUtilizationPercent", "runningRequests", "waitingRequests", "scaling")
"""What changes with every request: alone, it is not worth a write each time."""

OTHERS = ("demand",)
"""What the gateways write."""


@dataclass(frozen=True, slots=True)
class Doors:
    """Where the gateway is reached, as the operator was told; empty where it was not."""

    grpc: str = ""
    http: str = ""

    @property
    def endpoints(self) -> dict[str, str]:
        made = {"grpc": self.grpc, "http": self.http}
        if self.http:
            made["openai"] = self.http.rstrip("/") + "/v1"
        return {name: address for name, address in made.items() if address}


def status_of_refused(
    resource: Mapping[str, Any], conditions: Sequence[Condition], now: float
) -> dict[str, Any]:
    """Of a resource whose spec cannot be served: what was seen of it before stays."""
    generation = resource["metadata"].get("generation", 0)
    before = {key: value for key, value in resource.get("status", {}).items() if key not in OTHERS}
    made = merged(conditions, before.get("conditions", ()), generation, rfc3339(now))
    kept = [
        condition
        for condition in before.get("conditions", ())
        if condition["type"] not in {each.type for each in conditions}
    ]
    return {**before, "observedGeneration": generation, "conditions": [*made, *kept]}


def status_of(
    model: InferenceModel,
    before: Mapping[str, Any],
    observed: Observed,
    count: Count,
    loads: Sequence[Load],
    conditions: Sequence[Condition],
    doors: Doors,
    now: float,
) -> dict[str, Any]:
    """As JSON. `before` is the status so far; `loads` are the fresh ones of all pods."""
    changed = before.get("desiredReplicas") != count.desired
    made: dict[str, Any] = {
        "observedGeneration": model.generation,
        "modelName": model.model_name,
        "replicas": observed.replicas,
        "readyReplicas": observed.ready,
        "updatedReplicas": observed.updated,
        "selector": selector_string(model.name),
        "desiredReplicas": count.desired,
        "desiredReason": count.reason if changed else before.get("desiredReason", count.reason),
        "desiredMessage": count.message if changed else before.get("desiredMessage", count.message),
        "conditions": merged(conditions, before.get("conditions", ()), model.generation, rfc3339(now)),
        **_load(loads),
    }
    if doors.endpoints:
        made["endpoints"] = doors.endpoints
    if scaling := count.memory.to_status():
        made["scaling"] = scaling
    return made


def _load(loads: Sequence[Load]) -> dict[str, Any]:
    """Sums over pods, so that a full small pod does not count as much as a full large one."""
    total = sum(load.total_blocks for load in loads)
    utilization = sum(load.held_blocks for load in loads) / total if total else 0.0
    return {
        "kvUtilization": round(utilization, 2),
        "kvUtilizationPercent": f"{utilization:.0%}",
        "runningRequests": sum(load.running for load in loads),
        "waitingRequests": sum(load.waiting for load in loads),
    }


def own_part(resource: Mapping[str, Any]) -> dict[str, Any]:
    """The status that a resource has, without what others write."""
    return {key: value for key, value in resource.get("status", {}).items() if key not in OTHERS}


def steady_part(status: Mapping[str, Any]) -> dict[str, Any]:
    """A status without its noise."""
    return {key: value for key, value in status.items() if key not in NOISE}


def rfc3339(seconds: float) -> str:
    """A time since the epoch as Kubernetes writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
