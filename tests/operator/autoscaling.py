"""Worlds for the autoscaler's tests: pods, observations, and what Hypothesis makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from octavo.operator.autoscaler import Decision, Demand, Load, Memory, Observation, Pod, Policy, decide

if TYPE_CHECKING:
    from collections.abc import Iterable

NOW = 1_000_000.0
BLOCKS = 100


def pod(name: str, held: int = 0, **load: int) -> Pod:
    """A ready pod of 100 blocks that has just told its load."""
    return Pod(name, load=Load(total_blocks=BLOCKS, held_blocks=held, **load), load_age=0.5)


def unready(name: str) -> Pod:
    return Pod(name, ready=False)


def silent(name: str) -> Pod:
    """A ready pod whose load is a minute old."""
    return Pod(name, load=Load(total_blocks=BLOCKS, held_blocks=99), load_age=60.0)


def seen(
    pods: Iterable[Pod], replicas: int | None = None, now: float = NOW, waiting_at_gateway: int = 0
) -> Observation:
    pods = tuple(pods)
    demand = (Demand(waiting_at_gateway, 1.0),) if waiting_at_gateway else ()
    return Observation(now, len(pods) if replicas is None else replicas, pods, demand)


def settled(policy: Policy, observation: Observation, memory: Memory | None = None) -> Decision:
    """The decision after the same has been seen for longer than any window."""
    memory = memory or Memory()
    span = max(policy.scale_up_stabilization, policy.scale_down_stabilization) + 1
    return watched(policy, observation, memory, span)


def watched(policy: Policy, observation: Observation, memory: Memory, seconds: float) -> Decision:
    """The last decision, after the same was seen every minute from now until `seconds` later."""
    offset = 0.0
    while offset < seconds:
        memory = decide(policy, later(observation, offset), memory).memory
        offset += 60
    return decide(policy, later(observation, seconds), memory)


def later(observation: Observation, seconds: float) -> Observation:
    return Observation(observation.now + seconds, observation.replicas, observation.pods, observation.demand)


policies = st.builds(
    lambda least, more, **rest: Policy(min_replicas=least, max_replicas=max(1, least + more), **rest),
    st.integers(0, 10),
    st.integers(0, 40),
    target_kv_utilization=st.floats(0.05, 1),
    target_waiting_tokens=st.integers(1, 20_000),
    tolerance=st.floats(0, 0.5),
    scale_up_stabilization=st.sampled_from([0.0, 30.0]),
    scale_down_stabilization=st.sampled_from([0.0, 60.0, 300.0]),
    scale_to_zero_after=st.sampled_from([0.0, 60.0, 600.0]),
)
loads = st.builds(
    Load,
    total_blocks=st.integers(0, 200),
    held_blocks=st.integers(0, 200),
    running=st.integers(0, 64),
    waiting=st.integers(0, 100),
    waiting_tokens=st.integers(0, 50_000),
    total_requests=st.integers(0, 1000),
    total_prompt_tokens=st.integers(0, 1_000_000),
    total_cached_prompt_tokens=st.integers(0, 1_000_000),
    total_output_tokens=st.integers(0, 1_000_000),
    draining=st.booleans(),
)
pods = st.lists(
    st.builds(
        Pod,
        st.sampled_from([f"pod-{number}" for number in range(12)]),
        ready=st.booleans(),
        terminating=st.booleans(),
        load=st.none() | loads,
        load_age=st.sampled_from([0.1, 1.0, 9.9, 10.1, 3600.0]),
    ),
    max_size=12,
    unique_by=lambda pod: pod.name,
).map(tuple)
demands = st.lists(st.builds(Demand, st.integers(0, 50), st.sampled_from([1.0, 14.0, 16.0])), max_size=2).map(
    tuple
)
steps = st.lists(
    st.tuples(st.sampled_from([0.0, 0.2, 2.0, 15.0, 61.0, 400.0, -30.0]), pods, demands),
    min_size=1,
    max_size=12,
)
"""Seconds since the step before, and what is seen then: any chaos."""
