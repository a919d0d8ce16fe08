"""From what is seen and remembered to a number of replicas."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING

from octavo.operator.autoscaler.census import ROUNDING, Census
from octavo.operator.autoscaler.decision import Decision, Signal
from octavo.operator.autoscaler.idleness import idleness, someone_is_silent
from octavo.operator.autoscaler.memory import timestamp
from octavo.operator.autoscaler.signals import arrivals, kv_utilization, waiting_target, waiting_tokens
from octavo.operator.autoscaler.stabilization import (
    GROWTH_FACTOR,
    GROWTH_PERIOD,
    GROWTH_PODS,
    Timeline,
    growth_limit,
    stabilize,
)

if TYPE_CHECKING:
    from octavo.operator.autoscaler.memory import Memory
    from octavo.operator.autoscaler.observation import Observation
    from octavo.operator.autoscaler.policy import Policy

ABOVE_TARGET = {
    "KVUtilization": "KVUtilizationAboveTarget",
    "WaitingTokens": "WaitingTokensAboveTarget",
    "Arrivals": "ArrivalsAboveThroughput",
}


def decide(policy: Policy, observation: Observation, memory: Memory) -> Decision:
    """How many replicas the workload should have at `observation.now`.

    Call it every few seconds with the memory of the decision before. The same observation twice changes
    nothing.
    """
    seen_at = memory.traffic.seen_at
    if seen_at is None or observation.now - seen_at > LONGEST_ABSENCE:
        # Nothing is known of the time since, but that it led to this: a new window begins.
        past = Timeline().having(observation.replicas, observation.now, LONGEST_ABSENCE)
        memory = replace(memory, recommendations=past)
    memory = replace(
        memory,
        idle=idleness(observation, memory.idle),
        sizes=memory.sizes.having(observation.replicas, observation.now, GROWTH_PERIOD),
        traffic=memory.traffic.after(observation, waiting_target(policy, memory.traffic)),
    )
    census = Census.of(observation)
    signals = (
        kv_utilization(policy, observation, census),
        waiting_tokens(policy, observation, census, memory.traffic),
        arrivals(policy, observation, census, memory.traffic),
    )
    if observation.replicas == 0:
        answer = _from_zero(policy, observation, memory)
        past = Timeline().having(answer.replicas, observation.now, LONGEST_ABSENCE)
        memory = replace(memory, recommendations=past)
    elif _has_idled(policy, observation, memory):
        answer = Answer(0, "Idle", _idle(policy, memory))
    else:
        wish = _wish(observation, census, signals)
        answer, memory = _within_limits(policy, observation, memory, wish)
        if policy.min_replicas == 0 and memory.idle:
            answer = replace(answer, why=f"{answer.why}; {_idle(policy, memory)}")
    if answer.replicas != observation.replicas:
        memory = replace(memory, last_scale=observation.now)
    message = answer.message(observation.replicas)
    return Decision(answer.replicas, answer.reason, message, memory, signals, answer.limited)


LONGEST_ABSENCE = 60.0
"""An operator that has not looked for more seconds, or is new, shrinks nothing before a window has passed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A number of replicas and where it comes from."""

    replicas: int
    reason: str
    why: str
    """What is measured."""
    limited: str = ""
    limit: str = ""
    """What the load asks for, and what keeps it from that."""

    def message(self, current: int) -> str:
        change = f"stays {current}" if self.replicas == current else f"{current} → {self.replicas}"
        return f"{self.why}: {change}{self.limit}"


def _from_zero(policy: Policy, observation: Observation, memory: Memory) -> Answer:
    """Only waiting requests start a model that has no pods; no stabilisation then keeps them waiting."""
    requests = observation.requests_at_gateways
    if not requests:
        if policy.min_replicas:
            return Answer(policy.min_replicas, "TooFewReplicas", "no pods", "TooFewReplicas")
        return Answer(0, "Idle", _idle(policy, memory))
    tokens = requests * memory.traffic.prompt_tokens
    needed = max(1, ceil(tokens / waiting_target(policy, memory.traffic) - ROUNDING))
    why = f"{requests} requests of about {tokens:.0f} tokens wait at gateways"
    return _bounded(policy, observation, memory, Answer(needed, "Demand", why), needed)


def _has_idled(policy: Policy, observation: Observation, memory: Memory) -> bool:
    if policy.min_replicas or memory.idle is None or someone_is_silent(observation):
        return False
    return observation.now - memory.idle.since >= policy.scale_to_zero_after


def _idle(policy: Policy, memory: Memory) -> str:
    if memory.idle is None:
        return "no request known"
    return (
        f"no request since {timestamp(memory.idle.since)}, to zero {policy.scale_to_zero_after:.0f} s after"
    )


def _wish(observation: Observation, census: Census, signals: tuple[Signal, ...]) -> Answer:
    """The most that any signal asks for; to zero leads only idleness."""
    current = observation.replicas
    told = [(signal.replicas, signal) for signal in signals if signal.replicas is not None]
    unknown = (
        f" ({census.silent} silent, {census.unready} not ready)" if census.silent or census.unready else ""
    )
    if not told:
        return Answer(current, "MissingLoad", f"no load is known of any pod{unknown}")
    replicas, signal = max(told, key=lambda pair: pair[0])
    replicas = max(1, replicas)
    if replicas > current:
        reason = ABOVE_TARGET[signal.name]
    else:
        reason = "LoadBelowTarget" if replicas < current else "WithinTolerance"
    return Answer(replicas, reason, signal.message + unknown)


def _within_limits(
    policy: Policy, observation: Observation, memory: Memory, wish: Answer
) -> tuple[Answer, Memory]:
    """The wish after stabilisation and bounds, and the memory of it."""
    now, current = observation.now, observation.replicas
    up, down = policy.scale_up_stabilization, policy.scale_down_stabilization
    recommended = _clamp(policy, wish.replicas)
    past = memory.recommendations
    stable = stabilize(past, recommended, current, up=up, down=down, now=now)
    memory = replace(memory, recommendations=past.having(recommended, now, max(up, down)))
    return _bounded(policy, observation, memory, wish, stable), memory


def _bounded(policy: Policy, observation: Observation, memory: Memory, wish: Answer, stable: int) -> Answer:
    """The stabilised wish within the limits of growth, and in any case within those of the policy."""
    current = observation.replicas
    most = max(current, growth_limit(memory.sizes, observation.now))
    replicas = _clamp(policy, min(stable, most))
    if replicas == wish.replicas:
        return wish
    if replicas == policy.max_replicas < wish.replicas or current > policy.max_replicas:
        limited, limit = "TooManyReplicas", f"maxReplicas is {policy.max_replicas}"
    elif replicas == policy.min_replicas > wish.replicas:
        limited, limit = "TooFewReplicas", f"minReplicas is {policy.min_replicas}"
    elif replicas == most < stable:
        limited = "ScaleUpLimit"
        limit = f"growth within {GROWTH_PERIOD:.0f} s is at most {GROWTH_PODS} pods or {GROWTH_FACTOR} times"
    else:
        up = wish.replicas > current
        seconds = policy.scale_up_stabilization if up else policy.scale_down_stabilization
        limited = "Stabilizing"
        limit = f"{'fewer' if up else 'more'} were needed within the last {seconds:.0f} s"
    as_wished = (replicas > current) == (wish.replicas > current) and (replicas < current) == (
        wish.replicas < current
    )
    reason = wish.reason if as_wished and current <= policy.max_replicas else limited
    return replace(
        wish,
        replicas=replicas,
        reason=reason,
        limited=limited,
        limit=f" ({wish.replicas} wanted, but {limit})",
    )


def _clamp(policy: Policy, replicas: int) -> int:
    """Within the policy's bounds; to zero leads only idleness."""
    return min(max(replicas, policy.min_replicas, 1), policy.max_replicas)
