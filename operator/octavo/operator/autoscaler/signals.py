"""The three measures of load, and how many replicas each would have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.operator.autoscaler.decision import Signal

if TYPE_CHECKING:
    from octavo.operator.autoscaler.census import Census
    from octavo.operator.autoscaler.observation import Observation
    from octavo.operator.autoscaler.policy import Policy
    from octavo.operator.autoscaler.traffic import Traffic

THROUGHPUT_TARGET = 0.8
"""The share of its capacity that a pod should work at. Nearer to 1, random arrivals make long queues."""


def kv_utilization(policy: Policy, observation: Observation, census: Census) -> Signal:
    """Held blocks ÷ all blocks, over the target."""
    held = sum(load.held_blocks for load in census.loads)
    total = sum(load.total_blocks for load in census.loads)
    replicas = None
    if total:
        target = policy.target_kv_utilization * total / census.known
        replicas = census.replicas_for(held, target, observation.replicas, policy.tolerance)
    value = held / total if total else 0.0
    return Signal(
        "KVUtilization",
        value,
        policy.target_kv_utilization,
        replicas,
        f"KV utilisation {value:.2f} over {pods(census.known)}, target {policy.target_kv_utilization:.2f}",
    )


def waiting_tokens(policy: Policy, observation: Observation, census: Census, traffic: Traffic) -> Signal:
    """Prompt tokens in the pods' queues and of requests that gateways hold, over the target per pod."""
    in_pods = sum(load.waiting_tokens for load in census.loads)
    at_gateways = observation.requests_at_gateways
    value = in_pods + at_gateways * traffic.prompt_tokens
    target = waiting_target(policy, traffic)
    text = f"{value:.0f} waiting tokens over {pods(census.known)}, target {target:.0f} a pod"
    if at_gateways:
        text += f" ({at_gateways} requests at gateways, taken for {traffic.prompt_tokens:.0f} tokens each)"
    replicas = census.replicas_for(value, target, observation.replicas, policy.tolerance)
    return Signal("WaitingTokens", value, target, replicas, text)


def waiting_target(policy: Policy, traffic: Traffic) -> float:
    """Tokens that may wait per pod: never fewer than one request has, or a single one would ask for many."""
    return max(policy.target_waiting_tokens, traffic.prompt_tokens)


def arrivals(policy: Policy, observation: Observation, census: Census, traffic: Traffic) -> Signal:
    """Tokens per second that arrive, over those that a pod can do, once that has been seen.

    While nothing waits the pods evidently keep up: then it asks for no more than there are. But it holds
    those that it takes to keep up, which no other signal knows of when prompts are long and answers short.
    """
    rate, capacity = traffic.rate, traffic.pod_capacity
    value = rate.offered if rate else 0.0
    if rate is None or capacity is None or not census.known:
        return Signal("Arrivals", value, 0.0, None, f"arrivals of {value:.0f} tokens/s, never yet too many")
    target = capacity * THROUGHPUT_TARGET
    replicas = census.replicas_for(value, target, observation.replicas, policy.tolerance)
    if replicas is not None and not traffic.saturated:
        replicas = min(replicas, observation.replicas)
    text = (
        f"arrivals of {value:.0f} tokens/s over {pods(census.known)}, "
        f"each can do {capacity:.0f}, target {target:.0f}"
    )
    return Signal("Arrivals", value, target, replicas, text)


def pods(count: int) -> str:
    return f"{count} pod" if count == 1 else f"{count} pods"
