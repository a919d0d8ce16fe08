"""What the autoscaler remembers from one decision to the next."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from octavo.operator.autoscaler.idleness import Idleness
from octavo.operator.autoscaler.stabilization import Timeline
from octavo.operator.autoscaler.traffic import DEFAULT_PROMPT_TOKENS, Capacity, Traffic, Work

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Memory:
    """Passed from decision to decision. `Memory()` is that of an operator which has just started: it shrinks
    nothing before a whole stabilisation window has passed.

    What should outlive the operator fits into the resource's status: `to_status`, `from_status`.
    """

    last_scale: float | None = None
    """When another number of replicas was last decided, in seconds since the epoch."""
    idle: Idleness | None = None
    recommendations: Timeline = field(default_factory=Timeline)
    """Before stabilisation."""
    sizes: Timeline = field(default_factory=Timeline)
    """Replicas that the workload had."""
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def idle_since(self) -> float | None:
        return self.idle.since if self.idle else None

    def to_status(self) -> dict[str, Any]:
        """The part worth keeping over a restart, as JSON in Kubernetes' style; times in RFC 3339.

        It changes when something happens, not with each decision.
        """
        status: dict[str, Any] = {}
        if self.traffic.prompt_tokens != DEFAULT_PROMPT_TOKENS:
            status["promptTokensPerRequest"] = _rounded(self.traffic.prompt_tokens)
        if self.last_scale is not None:
            status["lastScaleTime"] = timestamp(self.last_scale)
        if self.idle is not None:
            status["idleSince"] = timestamp(self.idle.since)
            status["requestsBeforeIdle"] = self.idle.total
        if (capacity := self.traffic.capacity) is not None and capacity.work.done > 0:
            status["podTokensPerSecond"] = _rounded(capacity.per_second)
            status["generatedPercent"] = round(100 * capacity.work.mix)
        return status

    @classmethod
    def from_status(cls, status: Mapping[str, Any]) -> Memory:
        """The memory that `to_status` told of; what is missing or malformed there is forgotten."""
        idle = None
        since, requests = _time(status.get("idleSince")), _number(status.get("requestsBeforeIdle"))
        if since is not None and requests is not None:
            idle = Idleness(since, int(requests))
        capacity = None
        rate, mix = _number(status.get("podTokensPerSecond")), _number(status.get("generatedPercent"))
        if rate and mix is not None and mix <= 100:
            work = Work(begun=rate * (1 - mix / 100), generated=rate * mix / 100)
            capacity = Capacity(work * RESTORED_SECONDS, RESTORED_SECONDS)
        prompt_tokens = _number(status.get("promptTokensPerRequest")) or DEFAULT_PROMPT_TOKENS
        return cls(
            last_scale=_time(status.get("lastScaleTime")),
            idle=idle,
            traffic=Traffic(capacity=capacity, prompt_tokens=prompt_tokens),
        )


RESTORED_SECONDS = 30.0
"""The weight of a capacity that an earlier operator measured, in pod-seconds."""


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, as Kubernetes writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _time(value: object) -> float | None:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return time.timestamp() if time is not None and time.tzinfo is not None else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def _rounded(value: float) -> int:
    """To two significant digits, so that noise does not change it."""
    return int(float(f"{max(1.0, value):.2g}"))
