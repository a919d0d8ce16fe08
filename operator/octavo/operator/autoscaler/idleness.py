"""Since when a model has had no request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from octavo.operator.autoscaler.observation import Observation


@dataclass(frozen=True, slots=True)
class Idleness:
    """A time without requests: none runs or waits, in a pod or at a gateway, and none came and went unseen.

    A session that holds a finished turn is idle too: the gateway can rebuild the turn on another pod, and a
    client that forgets an open session should not keep a pod for ever.
    """

    since: float
    """Seconds since the epoch."""
    total: int = 0
    """Requests that the pods had counted by then."""
    counted: Mapping[str, int] | None = None
    """The same by pod; None if only the total is known, from the resource's status."""


def idleness(observation: Observation, before: Idleness | None) -> Idleness | None:
    """None if a request is known of, or may be."""
    loads = {pod.name: load for pod in observation.pods if (load := pod.fresh_load) is not None}
    if observation.requests_at_gateways or any(load.running or load.waiting for load in loads.values()):
        return None
    if someone_is_silent(observation):
        return before
    counted = {name: load.total_requests for name, load in loads.items()}
    total = sum(counted.values())
    if before is None:
        unseen = True
    elif before.counted is None:
        unseen = total != before.total
    else:
        unseen = any(count != before.counted.get(name, 0) for name, count in counted.items())
    since = observation.now if before is None or unseen else min(before.since, observation.now)
    return Idleness(since, total, counted)


def someone_is_silent(observation: Observation) -> bool:
    """A ready pod that does not tell its load may be serving all the same."""
    return any(pod.ready and pod.fresh_load is None for pod in observation.pods)
