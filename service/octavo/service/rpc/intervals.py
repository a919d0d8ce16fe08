"""How often a watch tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.engine import InvalidRequest, Violation

if TYPE_CHECKING:
    from octavo.v1 import engine_pb2, gateway_pb2

DEFAULT_INTERVAL = 0.5
SHORTEST_INTERVAL = 0.01


def interval_of(request: engine_pb2.WatchLoadRequest | gateway_pb2.WatchPodsRequest) -> float:
    """Seconds between two responses of a watch. InvalidRequest."""
    if not request.HasField("interval"):
        return DEFAULT_INTERVAL
    interval: float = request.interval.ToTimedelta().total_seconds()
    if interval < SHORTEST_INTERVAL:
        rule = f"must be at least {SHORTEST_INTERVAL:g} s"
        raise InvalidRequest(Violation("interval", f"{interval:g} s", rule))
    return interval
