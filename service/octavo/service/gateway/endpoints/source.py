"""What a source of endpoints tells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from octavo.service.gateway.scorers import RoutingPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping


@dataclass(frozen=True, slots=True)
class Route:
    """One model's pods, and how to choose among them.

    addresses: `host:port` of each pod's gRPC server, an IPv6 host in brackets.
    waits: whether pods may come when there are none, so that a request may wait for one.
    """

    addresses: frozenset[str]
    policy: RoutingPolicy = field(default_factory=RoutingPolicy)
    waits: bool = False


class Source(Protocol):
    """Tells all models' routes: at first, and again whenever something has changed."""

    def routes(self) -> AsyncIterator[Mapping[str, Route]]:
        """By model name. Never ends of itself: trouble is logged, and what was known stays so meanwhile."""
        ...
