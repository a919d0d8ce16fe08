"""What keeps the number of replicas from following every flicker of the load, as in Kubernetes' autoscaler.

Source: `behavior` of autoscaling/v2, and horizontal.go: stabilizeRecommendationWithBehaviors,
convertDesiredReplicasWithBehaviorRate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

GROWTH_PERIOD = 15.0
"""Seconds within which the workload grows by no more than..."""
GROWTH_PODS = 4
"""...this many pods, or..."""
GROWTH_FACTOR = 2
"""...this many times, whichever is more."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Which values a number had, and when last: all that the least and the most in a window take."""

    last: Mapping[int, float] = field(default_factory=dict)

    def having(self, value: int, now: float, keep: float) -> Timeline:
        """The timeline with `value` at `now`, and nothing older than `keep` seconds."""
        # A time to come is from before the clock was set back.
        last = {value: min(time, now) for value, time in self.last.items()}
        return Timeline({**{old: time for old, time in last.items() if time > now - keep}, value: now})

    def within(self, seconds: float, now: float) -> list[int]:
        """The values that it had in the last `seconds`."""
        return [value for value, time in self.last.items() if min(time, now) > now - seconds]


def stabilize(
    recommendations: Timeline, recommended: int, current: int, up: float, down: float, now: float
) -> int:
    """The replicas nearest to the current ones, between the least recommendation of the last `up` seconds and
    the most of the last `down` seconds."""
    least = min([recommended, *recommendations.within(up, now)])
    most = max([recommended, *recommendations.within(down, now)])
    return max(least, min(current, most))


def growth_limit(sizes: Timeline, now: float) -> int:
    """The most replicas that the workload may have now, by those it had in the last 15 s."""
    start = min(sizes.within(GROWTH_PERIOD, now))
    return max(start + GROWTH_PODS, start * GROWTH_FACTOR)
