"""The autoscaler in a closed loop with a fluid model of pods, and a drawing of what becomes of a day.

    python benchmarks/autoscaling_simulation.py

A pod spends its time on prefill and on decode, holds keys and values for what runs, and queues what finds no
time, no seat or no room. Requests flow instead of arriving one by one, so all unrest is the autoscaler's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from octavo.operator.autoscaler import Demand, Load, Memory, Observation, Pod, Policy, decide, deletion_costs

if TYPE_CHECKING:
    from collections.abc import Callable

TICK = 1.0
PARCELS = 8


@dataclass(frozen=True)
class Hardware:
    """What a pod can do."""

    prefill_rate: float = 8000.0
    """Prompt tokens per second, if it does nothing else."""
    decode_rate: float = 2000.0
    """Generated tokens per second, if it does nothing else."""
    stream_rate: float = 40.0
    """Generated tokens per second of one request, at most."""
    seats: float = 64.0
    """Requests that run at once."""
    kv_tokens: float = 100_000.0
    startup: float = 30.0
    """Seconds until a new pod serves."""


@dataclass(frozen=True)
class Requests:
    """What every request is like."""

    prompt: float = 500.0
    output: float = 200.0

    @property
    def kv_tokens(self) -> float:
        """On average over its life."""
        return self.prompt + self.output / 2

    def per_second(self, hardware: Hardware) -> float:
        """As many as one pod can serve."""
        streams = min(hardware.seats, hardware.kv_tokens / self.kv_tokens)
        time = self.prompt / hardware.prefill_rate + self.output / hardware.decode_rate
        return min(1 / time, streams * min(hardware.stream_rate / self.output, 1 / TICK))


@dataclass
class FluidPod:
    name: str
    hardware: Hardware
    serves_at: float
    queue: float = 0.0
    running: float = 0.0
    counted: float = 0.0
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0

    def add(self, count: float, requests: Requests) -> None:
        self.queue += count
        self.counted += count
        self.prompt_tokens += count * requests.prompt

    def tick(self, requests: Requests) -> None:
        hardware = self.hardware
        decode = min(self.running * hardware.stream_rate, hardware.decode_rate) * TICK
        decode = min(decode, self.running * requests.output)
        time = TICK - decode / hardware.decode_rate
        streams = min(hardware.seats, hardware.kv_tokens / requests.kv_tokens)
        self.running -= decode / requests.output
        begun = min(
            self.queue, time * hardware.prefill_rate / requests.prompt, max(0.0, streams - self.running)
        )
        self.queue -= begun
        self.running += begun
        self.output_tokens += decode

    def load(self, requests: Requests) -> Load:
        return Load(
            total_blocks=int(self.hardware.kv_tokens / 16),
            held_blocks=round(self.running * requests.kv_tokens / 16),
            running=math.ceil(self.running - 0.01),
            waiting=math.ceil(self.queue - 0.01),
            waiting_tokens=round(self.queue * requests.prompt),
            total_requests=math.ceil(self.counted - 0.01),
            total_prompt_tokens=round(self.prompt_tokens),
            total_output_tokens=round(self.output_tokens),
        )


@dataclass
class Cluster:
    """Pods, a gateway that gives requests to the emptiest of them, and the autoscaler every few seconds."""

    policy: Policy
    requests: Requests = field(default_factory=Requests)
    hardware: Hardware = field(default_factory=Hardware)
    replicas: int = 1
    every: float = 5.0
    now: float = 0.0
    held: float = 0.0
    """Requests at the gateway."""
    memory: Memory = field(default_factory=Memory)
    pods: list[FluidPod] = field(default_factory=list)
    leaving: list[FluidPod] = field(default_factory=list)
    reason: str = ""
    made: int = 0

    def __post_init__(self) -> None:
        self._resize(served=True)

    @property
    def serving(self) -> list[FluidPod]:
        return [pod for pod in self.pods if pod.serves_at <= self.now]

    @property
    def waiting_tokens(self) -> float:
        return (self.held + sum(pod.queue for pod in self.pods)) * self.requests.prompt

    def observation(self) -> Observation:
        pods = [Pod(pod.name, load=pod.load(self.requests), load_age=0.5) for pod in self.serving]
        pods += [Pod(pod.name, ready=False) for pod in self.pods if pod.serves_at > self.now]
        pods += [
            Pod(pod.name, terminating=True, load=pod.load(self.requests), load_age=0.5)
            for pod in self.leaving
        ]
        demand = (Demand(math.ceil(self.held - 0.01), 1.0),) if self.held > 0.01 else ()
        return Observation(self.now, self.replicas, tuple(pods), demand)

    def tick(self, rate: float) -> None:
        """One second with `rate` requests per second."""
        if self.now % self.every < TICK:
            decision = decide(self.policy, self.observation(), self.memory)
            self.memory, self.replicas, self.reason = decision.memory, decision.replicas, decision.reason
            self._resize()
        self.held += rate * TICK
        if serving := self.serving:
            parcel, self.held = self.held / PARCELS, 0.0
            for _ in range(PARCELS):
                pod = min(serving, key=lambda pod: (pod.queue * self.requests.prompt, pod.running, pod.name))
                pod.add(parcel, self.requests)
        for pod in serving + self.leaving:
            pod.tick(self.requests)
        self.leaving = [pod for pod in self.leaving if pod.running > 0.01]
        self.now += TICK

    def _resize(self, served: bool = False) -> None:
        while len(self.pods) < self.replicas:
            self.made += 1
            start = 0.0 if served else self.hardware.startup
            self.pods.append(FluidPod(f"pod-{self.made:04}", self.hardware, self.now + start))
        costs = deletion_costs(self.observation().pods)
        for pod in sorted(self.pods, key=lambda pod: costs[pod.name])[: len(self.pods) - self.replicas]:
            self.pods.remove(pod)
            # What runs finishes there; what waits is given to others.
            self.leaving.append(pod)
            self.held += pod.queue
            pod.queue = 0.0


def run(
    cluster: Cluster, load: Callable[[float], float], seconds: float
) -> list[tuple[float, float, int, float]]:
    """Time, requests per second, replicas and waiting tokens at every second."""
    history = []
    while cluster.now < seconds:
        rate = load(cluster.now)
        cluster.tick(rate)
        history.append((cluster.now, rate, cluster.replicas, cluster.waiting_tokens))
    return history


def day(now: float) -> float:
    """A day's requests per second: silent nights, a hump by day, a burst at 15:00."""
    hour = now / 3600 % 24
    hump = max(0.0, math.sin((hour - 7) / 14 * math.pi)) if 7 <= hour <= 21 else 0.0
    return 28 * hump**2 + (25 if 15 <= hour < 15.25 else 0)


def draw(history: list[tuple[float, float, int, float]], rows: int) -> None:
    for step in range(rows):
        part = history[step * len(history) // rows : (step + 1) * len(history) // rows]
        start, rate = part[0][0], max(row[1] for row in part)
        least, most = min(row[2] for row in part), max(row[2] for row in part)
        queue = max(row[3] for row in part)
        bar = "█" * least + "░" * (most - least)
        print(f"{int(start // 3600):02}:{int(start % 3600 // 60):02} {rate:6.1f}/s {queue:8.0f} {bar}")


def main() -> None:
    policy = Policy(min_replicas=0, max_replicas=16, scale_to_zero_after=900)
    cases = {
        "chat: 500 tokens in, 200 out": Requests(500, 200),
        "prefill-heavy: 4000 in, 10 out": Requests(4000, 10),
    }
    for name, requests in cases.items():
        cluster = Cluster(policy, requests, replicas=0, hardware=replace(Hardware(), startup=60))
        print(f"\n{name}; a pod can serve {requests.per_second(cluster.hardware):.1f}/s")
        print("time   arrivals  waiting  replicas")
        scale = requests.per_second(cluster.hardware) / Requests().per_second(Hardware())
        draw(run(cluster, lambda now, scale=scale: day(now) * scale, 24 * 3600), 48)


if __name__ == "__main__":
    main()
