"""How many pods a model should have: a pure function of its policy, its load and its recent past.

`decide` reads no clock and draws no random number: the same arguments give the same decision in every
operator. docs/autoscaling.md has the formulas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.operator.autoscaler.decision import Decision, Signal
from octavo.operator.autoscaler.memory import Memory
from octavo.operator.autoscaler.observation import Demand, Load, Observation, Pod
from octavo.operator.autoscaler.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "Decision",
    "Demand",
    "Load",
    "Memory",
    "Observation",
    "Pod",
    "Policy",
    "Signal",
    "decide",
    "deletion_costs",
]


def decide(policy: Policy, observation: Observation, memory: Memory) -> Decision:
    """How many replicas the workload should have at `observation.now`.

    Call it every few seconds with the memory of the decision before. The same observation twice changes
    nothing.
    """
    raise NotImplementedError


def deletion_costs(pods: Iterable[Pod]) -> Mapping[str, int]:
    """`controller.kubernetes.io/pod-deletion-cost` for each pod by name: the lower, the sooner it goes."""
    raise NotImplementedError
