"""What the operator is told at start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from octavo.operator.desired.platform import Platform
from octavo.operator.status import Doors

if TYPE_CHECKING:
    from collections.abc import Mapping

NOT_PASSED_ON = frozenset({"OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"})
"""Variables of OpenTelemetry that say who the operator is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one operator. Times in seconds."""

    identity: str
    """Who this is, among several operators."""
    namespaces: tuple[str, ...] = ()
    """Where it looks for models; everywhere if empty."""
    lease_namespace: str = "default"
    lease_name: str = "octavo-operator"
    interval: float = 2.0
    """Between two looks at each model."""
    resync: float = 60.0
    """Between two readings of everything, whatever the watches told."""
    workers: int = 4
    """Models that are reconciled at a time."""
    host: str = "0.0.0.0"
    port: int = 8080
    """Of /healthz, /readyz and /metrics; 0 for none."""
    platform: Platform = field(default_factory=Platform)
    doors: Doors = field(default_factory=Doors)


def telemetry_of_engines(environment: Mapping[str, str]) -> dict[str, str]:
    """The operator's own OTEL_ variables, which engine pods get too."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if name.startswith("OTEL_") and name not in NOT_PASSED_ON
    }
