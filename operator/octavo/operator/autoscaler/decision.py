"""What the autoscaler answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octavo.operator.autoscaler.memory import Memory


@dataclass(frozen=True, slots=True)
class Signal:
    """One measure of load against its target, and the replicas that it alone would have."""

    name: str
    """`KVUtilization`, `WaitingTokens` or `Arrivals`."""
    value: float
    """The measure over all pods: a share of blocks, tokens, tokens per second."""
    target: float
    """What each pod should bear of it, in the same unit; 0 if that is not known."""
    replicas: int | None
    """Its recommendation, within no bounds; None if it cannot tell."""
    message: str
    """The measure with its numbers, as a decision's message quotes it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas the workload should have now, and why."""

    replicas: int
    reason: str
    """CamelCase, for conditions and events; docs/autoscaling.md lists them."""
    message: str
    """The reason with its numbers, one sentence."""
    memory: Memory
    """To be given to the next decision."""
    signals: tuple[Signal, ...] = ()
    """What each signal says, for the status."""
    limited: str = ""
    """What kept the load's own answer from being taken: TooFewReplicas, TooManyReplicas, ScaleUpLimit,
    Stabilizing, or nothing."""
