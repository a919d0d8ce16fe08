"""What the autoscaler sees: the pods with their loads, and what gateways hold for want of a pod."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

STALE_AFTER = 10.0
"""A load older than this many seconds counts as missing."""

DEMAND_EXPIRES_AFTER = 15.0
"""Gateways renew their demand every 5 s; one that is silent for this many seconds is gone."""


@dataclass(frozen=True, slots=True)
class Load:
    """One pod's `octavo.v1.Load`, as far as scaling needs it. Totals count from the server's start."""

    total_blocks: int = 0
    held_blocks: int = 0
    running: int = 0
    waiting: int = 0
    waiting_tokens: int = 0
    total_requests: int = 0
    total_prompt_tokens: int = 0
    total_cached_prompt_tokens: int = 0
    total_output_tokens: int = 0
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of the workload. Failed and succeeded ones are not listed; those being deleted are."""

    name: str
    ready: bool = True
    """Kubernetes' Ready condition."""
    terminating: bool = False
    """Has a deletion timestamp."""
    load: Load | None = None
    """The last load that it told, if any."""
    load_age: float = inf
    """Seconds since it told it."""

    @property
    def leaving(self) -> bool:
        """It takes no new requests, so it is no part of the capacity."""
        return self.terminating or (self.load is not None and self.load.draining)

    @property
    def fresh_load(self) -> Load | None:
        """The load, unless it is stale. Readiness does not matter: gateways go by the load too."""
        return self.load if self.load_age <= STALE_AFTER else None


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests that one gateway holds because the model has no pod that could serve them."""

    waiting: int
    age: float
    """Seconds since the gateway renewed it."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One moment of a workload."""

    now: float
    """Seconds since the epoch."""
    replicas: int
    """What the workload's spec asks for."""
    pods: tuple[Pod, ...] = ()
    demand: tuple[Demand, ...] = ()

    @property
    def requests_at_gateways(self) -> int:
        """Requests that wait at gateways which are alive."""
        return sum(demand.waiting for demand in self.demand if demand.age <= DEMAND_EXPIRES_AFTER)
