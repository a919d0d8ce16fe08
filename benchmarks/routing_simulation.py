"""How long requests wait for their first token, by how their pods are picked: a discrete-event simulation.

    python benchmarks/routing_simulation.py [--pods 100] [--gateways 2] [--rates 12 16 18] [--sessions 0.9]

Pods batch continuously as Octavo's engine does: one token budget per step for prefill chunks and decodes,
KV blocks that grow with the sequences, preemption by recompute, a prefix cache that is evicted least
recently used first. Gateways see loads that are up to 0.2 s old, through the picker that serves real
requests; `least requests` has the exact count of what its own gateway has under way. Nothing depends on a
clock: equal seeds give equal figures. docs/routing.md tells what the figures mean.
"""

from __future__ import annotations

import argparse
import heapq
import math
import os
from collections import OrderedDict, deque
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from octavo.service.gateway.picker import Choice, Picker, Query
from octavo.service.gateway.scorers import PodView, RoutingPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BLOCK = 16
REPORT_INTERVAL = 0.2
WAY = 0.004
"""Seconds from a pick until the pod has queued the request, and from a pod's report until it is read."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """A pod: about an 8B model on one large accelerator. Times in seconds."""

    blocks: int = 24_000
    max_num_seqs: int = 128
    token_budget: int = 2048
    step: float = 0.012
    per_prefill_token: float = 0.00006
    per_decode: float = 0.00008


@dataclass(frozen=True, slots=True)
class Load:
    """What clients do. Lengths in tokens, log-normal: (median, sigma of the logarithm).

    A session's turns come one after another; each prompt is all that was said before, and a new message.
    """

    rate: float = 12.0
    """Requests per second and pod."""
    in_sessions: float = 0.9
    """Share of requests that belong to sessions."""
    turns: float = 8.0
    """Mean number of a session's turns, geometric."""
    think_time: float = 6.0
    """Mean seconds between an answer and the next message, exponential."""
    first_message: tuple[float, float] = (1000, 0.9)
    message: tuple[float, float] = (150, 1.0)
    single_prompt: tuple[float, float] = (500, 1.0)
    output: tuple[float, float] = (180, 0.8)
    longest: int = 12_000


@dataclass(slots=True, eq=False)
class Request:
    """A request, and how far it has come."""

    session: str
    """Whose prefix cache it may use; a single request has one to itself."""
    routed_by: str
    """What the gateway is told as the session."""
    prompt: int
    output: int
    gateway: int
    arrived: float = 0.0
    further: Sequence[tuple[int, int, int, float]] = ()
    """What its client will say then: message, output, gateway, and seconds of thought before."""
    first_token_at: float = math.nan
    produced: int = 0
    """Tokens of output before it last began to decode; all of them in the end."""
    uncomputed: int = 0
    held: int = 0
    """Blocks, while it does not decode."""
    decoding: bool = False
    began: int = 0
    """The pod's step in which it began to decode."""
    pod: int = 0
    pick: Choice | None = None

    @property
    def context(self) -> int:
        return self.prompt + self.produced

    @property
    def end(self) -> int:
        """The pod's step that gives its last token."""
        return self.began + self.output - self.produced

    def context_at(self, step: int) -> int:
        return self.context + step - self.began


class Pod:
    """An engine with continuous batching. What decodes is counted, not walked through, in each step."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware
        self.held = 0
        self.waiting: deque[Request] = deque()
        self.waiting_tokens = 0
        self.running: dict[Request, None] = {}
        self.cached_tokens = 0
        """Prompt tokens that were found in the cache, in all."""
        self.preemptions = 0
        self._prefilling: deque[Request] = deque()
        self._decoding = 0
        self._step = 0
        self._growth = [0] * BLOCK
        """How many sequences need another block in steps that are this, modulo the block size."""
        self._ends: list[tuple[int, int, Request]] = []
        self._begun = 0
        """Sequences that began to decode; those that end in one step end in this order."""
        self._cache: OrderedDict[str, int] = OrderedDict()
        """Blocks by session, those used last at the end."""
        self._cached = 0

    def queue(self, request: Request) -> None:
        self.waiting.append(request)
        self.waiting_tokens += request.context

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.running)

    def report(self) -> PodView:
        return PodView(
            total_blocks=self.hardware.blocks,
            held_blocks=self.held,
            running=len(self.running),
            waiting=len(self.waiting),
            waiting_tokens=self.waiting_tokens,
            max_num_seqs=self.hardware.max_num_seqs,
            prefill_tokens=sum(request.uncomputed for request in self._prefilling),
            block_size=BLOCK,
        )

    def step(self) -> tuple[float, list[Request], list[Request]]:
        """One step's seconds, and the requests that get their first and their last token from it."""
        self._step += 1
        self._grow()
        decodes = self._decoding
        ended = self._ended()
        filled, computed = self._prefill(self.hardware.token_budget - decodes)
        for request in filled:
            self._begin_decoding(request)
        ended += [request for request in filled if request.produced == request.output]
        for request in ended:
            self._leave(request, self._step)
        hardware = self.hardware
        seconds = hardware.step + computed * hardware.per_prefill_token + decodes * hardware.per_decode
        return seconds, filled, ended

    def _prefill(self, budget: int) -> tuple[list[Request], int]:
        """Spends the budget on prompts; those that are through, and the tokens computed."""
        filled, computed = [], 0
        while computed < budget and (self._prefilling or self._admit()):
            request = self._prefilling[0]
            chunk = min(budget - computed, request.uncomputed)
            request.uncomputed -= chunk
            computed += chunk
            if not request.uncomputed:
                filled.append(self._prefilling.popleft())
        return filled, computed

    def _admit(self) -> bool:
        """Takes the first of the queue into the batch, if there are a place and blocks for it."""
        if not self.waiting or len(self.running) >= self.hardware.max_num_seqs:
            return False
        request = self.waiting[0]
        blocks = blocks_of(request.context + 1)  # with one for the first token
        if self.held + blocks > self.hardware.blocks:
            return False
        self.waiting.popleft()
        self.waiting_tokens -= request.context
        found = self._cache.pop(request.session, 0)
        self._cached -= found
        hit = min(found, (request.context - 1) // BLOCK) * BLOCK
        self.cached_tokens += hit
        request.uncomputed = request.context - hit
        self._hold(request, blocks)
        self.running[request] = None
        self._prefilling.append(request)
        return True

    def _begin_decoding(self, request: Request) -> None:
        """The step that computes the last of the prompt gives the first token, too."""
        request.produced += 1
        request.decoding = True
        request.began = self._step
        self._hold(request, blocks_of(request.context))
        self._decoding += 1
        self._growth[self._phase(request)] += 1
        self._begun += 1
        heapq.heappush(self._ends, (request.end, self._begun, request))

    def _phase(self, request: Request) -> int:
        return (request.began - request.context + 1) % BLOCK

    def _ended(self) -> list[Request]:
        ended: dict[Request, None] = {}
        while self._ends and self._ends[0][0] <= self._step:
            end, _, request = heapq.heappop(self._ends)
            if request.decoding and request.end == end:  # else it was preempted meanwhile
                ended[request] = None
        return list(ended)

    def _grow(self) -> None:
        """A block for each sequence whose last one is full; the youngest makes room if there is none."""
        self.held += self._growth[self._step % BLOCK]
        while self.held > self.hardware.blocks:
            request = next(reversed(self.running))
            self.preemptions += 1
            if not request.decoding:
                self._prefilling.remove(request)
            self._leave(request, self._step - 1)
            self.waiting.appendleft(request)
            self.waiting_tokens += request.context
        self._evict()

    def _leave(self, request: Request, last_step: int) -> None:
        """Ends a sequence, or preempts it: its blocks stay in the cache while they are not needed."""
        del self.running[request]
        if request.decoding:
            held = blocks_of(request.context_at(self._step))
            self._growth[self._phase(request)] -= 1
            self._decoding -= 1
            request.produced += last_step - request.began
            request.decoding = False
        else:
            held = request.held
        self.held -= held
        request.held = 0
        computed = blocks_of(request.context - request.uncomputed)
        self._cached += computed - self._cache.pop(request.session, 0)
        self._cache[request.session] = computed
        self._evict()

    def _hold(self, request: Request, blocks: int) -> None:
        self.held += blocks - request.held
        request.held = blocks
        self._evict()

    def _evict(self) -> None:
        while (excess := self._cached + self.held - self.hardware.blocks) > 0 and self._cache:
            session, blocks = self._cache.popitem(last=False)
            kept = max(0, blocks - excess)
            self._cached -= blocks - kept
            if kept:
                self._cache[session] = kept
                self._cache.move_to_end(session, last=False)


def blocks_of(tokens: int) -> int:
    return -(-tokens // BLOCK)


class Policy(Protocol):
    """One gateway's way to pick."""

    def pick(self, request: Request, now: float) -> int: ...

    def done(self, request: Request, now: float) -> None: ...

    def report(self, pod: int, view: PodView, now: float) -> None: ...


class Blind:
    """A policy that looks at nothing."""

    def __init__(self, pods: int, random: Random) -> None:
        self.pods = pods
        self.random = random
        self.turn = random.randrange(pods)

    def pick(self, request: Request, now: float) -> int:
        return self.random.randrange(self.pods)

    def done(self, request: Request, now: float) -> None: ...

    def report(self, pod: int, view: PodView, now: float) -> None: ...


class RoundRobin(Blind):
    def pick(self, request: Request, now: float) -> int:
        self.turn = (self.turn + 1) % self.pods
        return self.turn


class LeastRequests(Blind):
    """The pod with the fewest requests of this gateway under way, at random among equals."""

    def __init__(self, pods: int, random: Random) -> None:
        super().__init__(pods, random)
        self.in_flight = [0] * pods

    def pick(self, request: Request, now: float) -> int:
        least = min(self.in_flight)
        pod = self.random.choice([i for i, count in enumerate(self.in_flight) if count == least])
        self.in_flight[pod] += 1
        return pod

    def done(self, request: Request, now: float) -> None:
        self.in_flight[request.pod] -= 1


class SessionHash(Blind):
    """A session's requests always go to the same pod, others to a random one."""

    def pick(self, request: Request, now: float) -> int:
        if not request.routed_by:
            return super().pick(request, now)
        return Random(request.routed_by).randrange(self.pods)


class Octavo:
    """The gateway's own picker."""

    def __init__(self, pods: int, random: Random, policy: RoutingPolicy | None = None) -> None:
        self.picker = Picker(policy or RoutingPolicy(), random)
        self.picker.set_members(map(str, range(pods)))

    def pick(self, request: Request, now: float) -> int:
        choice = self.picker.pick(Query(request.routed_by, request.prompt), now)
        assert choice is not None
        request.pick = choice
        return int(choice.address)

    def done(self, request: Request, now: float) -> None:
        assert request.pick is not None
        self.picker.done(request.pick, now)

    def report(self, pod: int, view: PodView, now: float) -> None:
        self.picker.report(str(pod), view, now)


POLICIES: dict[str, Callable[[int, Random], Policy]] = {
    "round robin": RoundRobin,
    "random": Blind,
    "session hash": SessionHash,
    "least requests": LeastRequests,
    "octavo": Octavo,
}


@dataclass(frozen=True, slots=True)
class Result:
    """What clients saw of the requests that arrived after the warm-up."""

    first_token: list[float]
    """Seconds from arrival to the first token, sorted."""
    cached: float
    """Share of prompt tokens that a cache had."""
    preemptions: int
    num_requests: int
    """All that arrived, unanswered ones included."""

    def percentile(self, percent: float) -> float:
        """By nearest rank; those without a token count as worse than all others."""
        rank = math.ceil(percent / 100 * self.num_requests) - 1
        return self.first_token[rank] if rank < len(self.first_token) else math.inf


@dataclass(frozen=True, slots=True)
class Setup:
    """One run's world."""

    pods: int = 100
    gateways: int = 2
    seconds: float = 30.0
    warm_up: float = 60.0
    """Until about as many sessions end as begin."""
    load: Load = field(default_factory=Load)
    hardware: Hardware = field(default_factory=Hardware)
    seed: int = 1


def simulate(make_policy: Callable[[int, Random], Policy], setup: Setup) -> Result:
    """Runs one policy. What clients say, and when they begin, is the same for every policy."""
    return _Simulation(make_policy, setup).run()


class _Simulation:
    def __init__(self, make_policy: Callable[[int, Random], Policy], setup: Setup) -> None:
        self.setup = setup
        self.clients = Random(setup.seed)
        self.pods = [Pod(setup.hardware) for _ in range(setup.pods)]
        self.gateways = [make_policy(setup.pods, Random(f"{setup.seed}/{i}")) for i in range(setup.gateways)]
        self.events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.count = 0
        self.stepping = [False] * setup.pods
        self.now = 0.0
        self.requests: list[Request] = []

    def run(self) -> Result:
        setup = self.setup
        for i, pod in enumerate(self.pods):
            self.tell(i, pod.report())
            self.at(self.clients.random() * REPORT_INTERVAL, self.report, i)
        self.at(0.0, self.arrivals)
        until = setup.warm_up + setup.seconds
        while self.events and self.events[0][0] < until + 30:
            self.now, _, act, arguments = heapq.heappop(self.events)
            act(*arguments)
        counted = [r for r in self.requests if setup.warm_up <= r.arrived < until]
        answered = sorted(r.first_token_at - r.arrived for r in counted if not math.isnan(r.first_token_at))
        cached = sum(pod.cached_tokens for pod in self.pods) / sum(r.prompt for r in self.requests)
        return Result(answered, cached, sum(pod.preemptions for pod in self.pods), len(counted))

    def at(self, time: float, act: Callable[..., None], *arguments: Any) -> None:
        self.count += 1
        heapq.heappush(self.events, (time, self.count, act, arguments))

    def arrivals(self) -> None:
        """A new session or a single request, all that its client will say, and the time of the next."""
        load, chance = self.setup.load, self.clients
        singles = 1 - load.in_sessions
        sessions = load.in_sessions / load.turns
        rate = load.rate * self.setup.pods * (singles + sessions)
        name = f"c{self.count}"
        if chance.random() * (singles + sessions) < singles:
            self.arrive(Request(name, "", *self.turn(load.single_prompt)), [])
        else:
            further = int(math.log(1 - chance.random()) / math.log(1 - 1 / load.turns))
            first, *rest = [load.first_message, *[load.message] * further]
            self.arrive(Request(name, name, *self.turn(first)), [(*self.turn(m), self.think()) for m in rest])
        if self.now < self.setup.warm_up + self.setup.seconds:
            self.at(self.now + chance.expovariate(rate), self.arrivals)

    def turn(self, message: tuple[float, float]) -> tuple[int, int, int]:
        """Tokens of a message and of its answer, and the gateway that it goes to."""
        gateway = self.clients.randrange(self.setup.gateways)
        return self.length(message), self.length(self.setup.load.output), gateway

    def think(self) -> float:
        return self.clients.expovariate(1 / self.setup.load.think_time)

    def length(self, median_and_sigma: tuple[float, float]) -> int:
        median, sigma = median_and_sigma
        drawn = int(self.clients.lognormvariate(math.log(median), sigma))
        return max(1, min(drawn, self.setup.load.longest))

    def arrive(self, request: Request, further: Sequence[tuple[int, int, int, float]]) -> None:
        request.further = further
        request.arrived = self.now
        request.pod = self.gateways[request.gateway].pick(request, self.now)
        self.requests.append(request)
        self.at(self.now + WAY, self.queue, request)

    def queue(self, request: Request) -> None:
        self.pods[request.pod].queue(request)
        if not self.stepping[request.pod]:
            self.begin_step(request.pod)

    def begin_step(self, number: int) -> None:
        self.stepping[number] = True
        seconds, first, last = self.pods[number].step()
        self.at(self.now + seconds, self.end_step, number, first, last)

    def end_step(self, number: int, first: list[Request], last: list[Request]) -> None:
        for request in first:
            if math.isnan(request.first_token_at):
                request.first_token_at = self.now
        for request in last:
            self.gateways[request.gateway].done(request, self.now)
            self.go_on(request)
        self.stepping[number] = False
        if not self.pods[number].idle:
            self.begin_step(number)

    def go_on(self, request: Request) -> None:
        """The session's next turn, if there is one and it is not too long."""
        if request.further:
            (message, output, gateway, think), *further = request.further
            prompt = request.context + message
            if prompt <= self.setup.load.longest:
                turn = Request(request.session, request.routed_by, prompt, output, gateway)
                self.at(self.now + think, self.arrive, turn, further)

    def report(self, number: int) -> None:
        self.at(self.now + WAY, self.tell, number, self.pods[number].report())
        self.at(self.now + REPORT_INTERVAL, self.report, number)

    def tell(self, number: int, view: PodView) -> None:
        for gateway in self.gateways:
            gateway.report(number, view, self.now)


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pods", type=int, default=100)
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--rates", type=float, nargs="+", default=[12, 16, 18], help="requests/s and pod")
    parser.add_argument(
        "--sessions", type=float, default=Load().in_sessions, help="share of requests in sessions"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    table = Table(title=f"Seconds to the first token: {options.pods} pods, {options.gateways} gateways")
    for column in ("req/s/pod", "picked by", "p50", "p90", "p99", "cached", "preempted"):
        table.add_column(column, justify="left" if column == "picked by" else "right")
    with ProcessPoolExecutor(os.cpu_count()) as workers:
        runs = {
            (rate, name): workers.submit(
                simulate,
                policy,
                Setup(
                    options.pods,
                    options.gateways,
                    load=Load(rate=rate, in_sessions=options.sessions),
                    seed=options.seed,
                ),
            )
            for rate in options.rates
            for name, policy in POLICIES.items()
        }
        for (rate, name), run in runs.items():
            result = run.result()
            waits = [f"{result.percentile(percent):.2f}" for percent in (50, 90, 99)]
            row = [f"{rate:g}", name, *waits, f"{result.cached:.0%}", str(result.preemptions)]
            table.add_row(*row, style="bold" if name == "octavo" else "", end_section=name == "octavo")
    Console().print(table)


if __name__ == "__main__":
    main()
