"""How much work arrives, how much the pods do, and how much one pod can do, from the totals that they tell.

Work is counted in tokens: those of prompts that are not in the cache, and those generated. A pod's work is
told by differences of its totals, so pods may come, go and restart at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import exp
from typing import TYPE_CHECKING

from octavo.operator.autoscaler.observation import STALE_AFTER, Load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from octavo.operator.autoscaler.observation import Observation, Pod

WINDOW = 60.0
"""Seconds over which rates are averaged."""
SHORTEST_WINDOW = 10.0
"""Seconds of history without which no rate is told."""
SHORTEST_SLICE = 1.0
"""Looks that are closer than this many seconds share a slice of the history."""
QUEUED_FOR = 5.0
"""A pod in which something waited at every look for this many seconds..."""
QUEUED_WORK = 1.0
"""...and whose queue is at least this many seconds of its work, or as long as the policy allows, does as much
as it can."""
LARGEST_BACKLOG_FACTOR = 4.0
"""Arrivals are taken for at most this many times of what is begun."""
MEMORY_OF_CAPACITY = 60.0
"""Pod-seconds after which a measured capacity has 1/e of its weight."""
SIMILAR_MIX = 0.25
"""Shares of generated tokens in all work that differ less than this are the same mix of work."""
DISPROVED = 1.25
"""Doing so many times the capacity with no queue shows that it was measured wrongly."""

SAME_MOMENT = 0.001
"""Two loads closer than this many seconds are one, whatever rounding made of its age."""

DEFAULT_PROMPT_TOKENS = 512.0
"""What a request at a gateway is taken for before any pod has counted one."""


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens, or tokens per second."""

    arrived: float = 0.0
    """Of prompts that arrived, less those found in the cache."""
    begun: float = 0.0
    """Of prompts that left the queue."""
    generated: float = 0.0

    @classmethod
    def between(cls, before: Load, after: Load) -> Work:
        """What a pod did between two of its loads; all of it, if it restarted."""
        if restarted(before, after):
            before = Load()
        arrived = (after.total_prompt_tokens - before.total_prompt_tokens) - (
            after.total_cached_prompt_tokens - before.total_cached_prompt_tokens
        )
        return cls(
            arrived=arrived,
            begun=arrived - (after.waiting_tokens - before.waiting_tokens),
            generated=after.total_output_tokens - before.total_output_tokens,
        )

    @property
    def done(self) -> float:
        return max(0.0, self.begun) + self.generated

    @property
    def offered(self) -> float:
        """What would be done if all that arrives were begun, and as much generated for it as now."""
        if self.begun > 0:
            factor = min(max(self.arrived, 0.0) / self.begun, LARGEST_BACKLOG_FACTOR)
        else:
            factor = LARGEST_BACKLOG_FACTOR if self.arrived > 0 else 1.0
        return self.done * factor

    @property
    def mix(self) -> float:
        """The share of generated tokens in what is done."""
        return self.generated / self.done if self.done > 0 else 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.arrived + other.arrived, self.begun + other.begun, self.generated + other.generated)

    def __mul__(self, factor: float) -> Work:
        return Work(self.arrived * factor, self.begun * factor, self.generated * factor)


def restarted(before: Load, after: Load) -> bool:
    """Totals only grow while a server lives."""
    return (
        after.total_requests < before.total_requests
        or after.total_prompt_tokens < before.total_prompt_tokens
        or after.total_output_tokens < before.total_output_tokens
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """A pod at the last look."""

    load: Load
    at: float
    """When it told the load."""
    queued_since: float | None = None
    queued_from: Load = field(default_factory=Load)
    """The load with which its queue began."""
    saturated: bool = False
    """It does as much as it can."""

    def next(self, load: Load, at: float, long_queue: float) -> Seen:
        if not (load.waiting and load.waiting_tokens):
            return Seen(load, at)
        if self.queued_since is None or restarted(self.load, load):
            return Seen(load, at, queued_since=at, queued_from=load)
        seconds = at - self.queued_since
        rate = max(0.0, Work.between(self.queued_from, load).begun) / seconds
        saturated = seconds >= QUEUED_FOR and load.waiting_tokens >= min(rate * QUEUED_WORK, long_queue)
        return Seen(load, at, self.queued_since, self.queued_from, saturated)


@dataclass(frozen=True, slots=True)
class Slice:
    """What all pods did in a short time."""

    end: float
    seconds: float
    pod_seconds: float
    work: Work


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a pod does when it does as much as it can: sums over saturated pods, the older the lighter."""

    work: Work
    seconds: float

    @property
    def per_second(self) -> float:
        return self.work.done / self.seconds

    def and_also(self, work: Work, seconds: float) -> Capacity:
        kept = exp(-seconds / MEMORY_OF_CAPACITY)
        return Capacity(self.work * kept + work, self.seconds * kept + seconds)


@dataclass(frozen=True, slots=True)
class Traffic:
    """The last minute of a model's work."""

    seen_at: float | None = None
    seen: Mapping[str, Seen] = field(default_factory=dict)
    slices: tuple[Slice, ...] = ()
    capacity: Capacity | None = None
    prompt_tokens: float = DEFAULT_PROMPT_TOKENS
    """Of a request, on average."""

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in self.slices)

    @property
    def rate(self) -> Work | None:
        """Work per second, over all pods; None before the history is long enough."""
        if self.seconds < SHORTEST_WINDOW:
            return None
        return sum((part.work for part in self.slices), Work()) * (1 / self.seconds)

    @property
    def saturated(self) -> bool:
        """Some pod does as much as it can, and more waits."""
        return any(pod.saturated for pod in self.seen.values())

    @property
    def pod_capacity(self) -> float | None:
        """Tokens per second that a pod can do of the present mix of work; None if that was never seen."""
        rate = self.rate
        if rate is None or self.capacity is None or self.capacity.work.done <= 0:
            return None
        return self.capacity.per_second if similar(rate, self.capacity.work) else None

    def after(self, observation: Observation, long_queue: float) -> Traffic:
        """The traffic with one more look at the pods; a second look at the same moment adds nothing.

        `long_queue`: tokens in a pod's queue that the policy calls too many.
        """
        now = observation.now
        since = now - self.seen_at if self.seen_at is not None else 0.0
        if since < 0:
            # The clock was set back: what was seen can't be placed in time any longer.
            return replace(self, seen_at=None, seen={}, slices=()).after(observation, long_queue)
        look = Look(self, now, since, long_queue)
        for pod in observation.pods:
            look.at_pod(pod)
        traffic = replace(
            self,
            seen_at=now,
            seen=look.seen,
            slices=self._slices_with(look),
            capacity=look.capacity,
            prompt_tokens=look.prompt_tokens,
        )
        return replace(traffic, capacity=None) if traffic._disproves_capacity else traffic

    def _slices_with(self, look: Look) -> tuple[Slice, ...]:
        slices = [part for part in self.slices if part.end > look.now - WINDOW]
        if not look.since or not look.pods:
            return tuple(slices)
        new = Slice(look.now, look.since, look.since * look.pods, look.work)
        if slices and slices[-1].seconds < SHORTEST_SLICE:
            last = slices.pop()
            seconds, pod_seconds = last.seconds + new.seconds, last.pod_seconds + new.pod_seconds
            new = Slice(new.end, seconds, pod_seconds, last.work + new.work)
        return (*slices, new)

    @property
    def _disproves_capacity(self) -> bool:
        capacity, rate = self.pod_capacity, self.rate
        if (
            capacity is None
            or rate is None
            or any(pod.queued_since is not None for pod in self.seen.values())
        ):
            return False
        pods = sum(part.pod_seconds for part in self.slices) / self.seconds
        return rate.done > DISPROVED * capacity * pods


class Look:
    """Adds up one look at the pods, each compared with the look before."""

    def __init__(self, before: Traffic, now: float, since: float, long_queue: float) -> None:
        self.before = before
        self.now = now
        self.since = since
        self.long_queue = long_queue
        self.seen: dict[str, Seen] = {}
        self.pods = 0
        self.work = Work()
        self.capacity = before.capacity
        self.requests = self.tokens = 0

    def at_pod(self, pod: Pod) -> None:
        load, before = pod.fresh_load, self.before.seen.get(pod.name)
        if load is None:
            if before is not None:
                self.seen[pod.name] = Seen(before.load, before.at)
            return
        self.requests += load.total_requests
        self.tokens += load.total_prompt_tokens
        at = self.now - pod.load_age
        if before is None:
            self.seen[pod.name] = Seen(load, at).next(load, at, self.long_queue)
            return
        self.pods += 1
        seconds = at - before.at
        if seconds < SAME_MOMENT:
            self.seen[pod.name] = before
            return
        # After a gap only the latest part of the work belongs to this look.
        share = min(1.0, max(self.since, STALE_AFTER) / seconds)
        self.work += Work.between(before.load, load) * share
        after = self.seen[pod.name] = before.next(load, at, self.long_queue)
        if after.saturated:
            self._learn(before, after)

    def _learn(self, before: Seen, after: Seen) -> None:
        start, since = (
            (before.load, before.at) if before.saturated else (after.queued_from, after.queued_since)
        )
        assert since is not None
        work, seconds = Work.between(start, after.load), after.at - since
        capacity = self.capacity
        self.capacity = capacity.and_also(work, seconds) if capacity else Capacity(work, seconds)

    @property
    def prompt_tokens(self) -> float:
        return self.tokens / self.requests if self.requests else self.before.prompt_tokens


def similar(one: Work, other: Work) -> bool:
    return abs(one.mix - other.mix) <= SIMILAR_MIX
