"""Which pods count, and how, as Kubernetes' HorizontalPodAutoscaler has it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octavo.operator.autoscaler.observation import Load, Observation

ROUNDING = 1e-9
"""So much above a whole number is still that number: sums of floats are not exact."""


@dataclass(frozen=True, slots=True)
class Census:
    """The workload's pods that stay, by what is known of them."""

    loads: tuple[Load, ...]
    """Of the pods that tell their load."""
    silent: int
    """Ready pods without a fresh load: what they bear is unknown."""
    unready: int
    """Pods that can't have load yet: neither ready nor telling one, or not even created."""

    @classmethod
    def of(cls, observation: Observation) -> Census:
        staying = [pod for pod in observation.pods if not pod.leaving]
        loads = tuple(load for pod in staying if (load := pod.fresh_load) is not None)
        silent = sum(pod.ready for pod in staying if pod.fresh_load is None)
        absent = max(0, observation.replicas - len(staying))
        return cls(loads, silent, len(staying) - len(loads) - silent + absent)

    @property
    def known(self) -> int:
        return len(self.loads)

    def replicas_for(self, usage: float, target: float, current: int, tolerance: float) -> int | None:
        """Replicas at which each bears at most `target` of the `usage` that the known pods and gateways tell;
        None if there are neither.

        It is the rule of Kubernetes' replica_calculator.go, calcPlainMetricReplicas, with sums instead of
        averages. Where the load asks for more, pods of which nothing is known bear nothing; where it asks for
        less, silent ones bear their target. They may weaken the answer, never turn it: then nothing changes.
        """
        if not self.known and usage <= 0:
            return None
        ratio = usage / (self.known * target) if self.known else inf
        if ratio > 1:
            pods = self.known + self.silent + self.unready
        else:
            pods = self.known + self.silent
            usage += self.silent * target
        full = usage / (pods * target) if pods else inf
        if abs(full - 1) <= tolerance + ROUNDING or (ratio > 1) != (full > 1):
            return current
        needed = ceil(usage / target - ROUNDING)
        return max(needed, current) if full > 1 else min(needed, current)
