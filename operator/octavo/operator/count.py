"""Who decides how many pods a model has, and how many they are to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from octavo.operator.autoscaler import Observation, decide

if TYPE_CHECKING:
    from octavo.operator.autoscaler import Demand, Memory, Pod
    from octavo.operator.model import InferenceModel
    from octavo.operator.observed import Observed


@dataclass(frozen=True, slots=True)
class Count:
    """How many pods there are to be, and why."""

    desired: int
    reason: str
    message: str
    memory: Memory
    active: bool = False
    """Whether the autoscaler decided."""
    written: bool = True
    """Whether the operator writes the Deployment's replicas; not where another field manager owns them."""


def count(
    model: InferenceModel,
    observed: Observed,
    pods: tuple[Pod, ...],
    demand: tuple[Demand, ...],
    memory: Memory,
    now: float,
) -> Count:
    """The owner of the Deployment's field goes first, then spec.replicas, then the autoscaler.

    A new model begins with one pod even if it may have none: whether it works shows before it is needed.
    """
    if observed.replicas_owner is not None:
        owner = observed.replicas_owner
        return Count(
            observed.spec_replicas,
            "ReplicasOwnedByOther",
            f"field manager {owner!r} owns spec.replicas of the Deployment and has set "
            f"{observed.spec_replicas}; Octavo leaves it alone",
            memory,
            written=False,
        )
    fixed = model.spec.replicas
    if fixed is not None:
        message = f"spec.replicas is set to {fixed}; remove it to let Octavo scale by load"
        return Count(fixed, "ReplicasFixed", message, memory)
    policy = model.spec.scaling.policy
    if not observed.exists:
        first = max(1, policy.min_replicas)
        return Count(first, "Created", f"a new model begins with {first}", memory, active=True)
    decision = decide(policy, Observation(now, observed.spec_replicas, pods, demand), memory)
    return Count(decision.replicas, decision.reason, decision.message, decision.memory, active=True)
