"""What the autoscaler remembers from one decision to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Memory:
    """Passed from decision to decision. `Memory()` is that of an operator which has just started: it shrinks
    nothing before a whole stabilisation window has passed.

    What should outlive the operator fits into the resource's status: `to_status`, `from_status`.
    """

    last_scale: float | None = None
    """When the number of replicas was last changed, in seconds since the epoch."""
    idle_since: float | None = None
    """Since when no request has been seen."""

    def to_status(self) -> dict[str, Any]:
        """The part worth keeping over a restart, as JSON in Kubernetes' style; times in RFC 3339."""
        raise NotImplementedError

    @classmethod
    def from_status(cls, status: Mapping[str, Any]) -> Memory:
        """The memory that `to_status` told of; what is missing or malformed there is forgotten."""
        raise NotImplementedError
