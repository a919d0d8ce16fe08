"""One trace from the client through gateway, pod and engine, as a collector receives it.

The pods are processes of their own; gateway and collector run here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import context as contexts
from opentelemetry import trace
from prometheus_client.parser import text_string_to_metric_families

from octavo.service.backend import Origin
from octavo.service.gateway.directory import Directory
from octavo.service.gateway.endpoints.source import Route
from octavo.service.gateway.endpoints.static import StaticSource
from octavo.service.gateway.router import Router
from octavo.service.gateway.session import Session
from octavo.service.rpc.refusals import Unavailable
from octavo.service.telemetry.context import from_metadata
from octavo.service.telemetry.rpc import SessionDoor
from octavo.service.telemetry.setup import Telemetry
from octavo.service.telemetry.tracing import current, start_server_span
from octavo.v1 import inference_pb2 as pb
from tests.conftest import TinyModel
from tests.service.conftest import GREEDY, as_prompt
from tests.service.test_serve import Process, served
from tests.telemetry.collector import Collector, Span, Trace
from tests.telemetry.conftest import Caller

PHASES = ["queue", "prefill", "decode"]
LONG = pb.SamplingParams(temperature=0, ignore_eos=True, max_tokens=3000)


CALL: Any = SimpleNamespace(peer=lambda: "ipv4:10.0.0.9:1234")


@dataclass(frozen=True)
class Fleet:
    """Two pods, and a router over them."""

    router: Router
    telemetry: Telemetry
    pods: dict[str, Process]
    """By address."""

    async def answer(self, caller: Caller, sampling: pb.SamplingParams, kill_after: int = 0) -> list[int]:
        """The tokens of a request that comes through a door; the pod that serves it is killed on the way."""
        request = pb.GenerateRequest(model="tiny", prompt=as_prompt("The quick brown fox"), sampling=sampling)
        span = start_server_span(self.telemetry.tracer, "door", from_metadata(caller.metadata), {})
        tokens: list[int] = []
        with current(span):
            origin = Origin(context=trace.set_span_in_context(span))
            async with aclosing(self.router.generate(request, origin)) as deltas:
                async for delta in deltas:
                    tokens += delta.token_ids
                    if kill_after and len(tokens) >= kill_after:
                        kill_after = 0
                        self.kill_the_busy_one()
        return tokens

    @asynccontextmanager
    async def session(self, caller: Caller, *, breaks: bool = False) -> AsyncIterator[tuple[Any, Any]]:
        """A session of the gateway: how to send a command, and how to wait for a request's end.

        breaks: whether the client breaks it off at the end, instead of closing its side.
        """
        commands: asyncio.Queue[pb.SessionRequest | None] = asyncio.Queue()
        tokens: Counter[str] = Counter()
        over: set[str] = set()

        async def read() -> AsyncIterator[pb.SessionRequest]:
            while (command := await commands.get()) is not None:
                yield command

        async def write(event: pb.SessionResponse) -> None:
            tokens[event.request_id] += len(event.delta.token_ids)
            if event.delta.finish_reason or event.WhichOneof("event") in ("rejected", "failed"):
                over.add(event.request_id)

        async def send(name: str, **command: Any) -> None:
            await commands.put(pb.SessionRequest(request_id=name, **command))

        async def ended(name: str, after: int | None = None) -> None:
            async with asyncio.timeout(60):
                while name not in over and (after is None or tokens[name] < after):
                    await asyncio.sleep(0.005)

        async def serve() -> None:
            contexts.attach(from_metadata(caller.metadata))  # what the interceptor does
            door = SessionDoor(self.telemetry.tracer, CALL)
            await Session(self.router, write, "", [], door).run(read(), asyncio.Event())

        serving = asyncio.create_task(serve())
        yield send, ended
        await commands.put(None)
        if breaks:
            serving.cancel()
        await asyncio.wait({serving}, timeout=30)
        assert serving.cancelled() if breaks else serving.exception() is None

    def kill_the_busy_one(self) -> None:
        [pool] = self.router.directory.pools()
        [busy] = [pod for pod in pool.pods if pod.in_flight]
        self.pods[busy.address].process.kill()


@pytest.fixture
async def fleet(collector: Collector, tiny_model: TinyModel) -> AsyncIterator[Fleet]:
    model = str(tiny_model("llama", max_position_embeddings=4096))
    with ExitStack() as stack:
        processes = [stack.enter_context(served(model, "--kv-cache-memory", "4Mi")) for _ in range(2)]
        pods = {await asyncio.to_thread(lambda p=process: p.address): process for process in processes}
        directory = Directory(StaticSource([f"tiny={address}" for address in pods]))
        telemetry = Telemetry.start("octavo-gateway")
        router = Router(directory, telemetry=telemetry)
        await directory.start()
        yield Fleet(router, telemetry, pods)
        await directory.stop()
        await asyncio.to_thread(telemetry.close)


def door_of(found: Trace, caller: Caller) -> Span:
    door = found.below(caller.span_id)
    assert (door.service, door.kind) == ("octavo-gateway", "server")
    return door


async def test_the_way_of_a_request(fleet: Fleet, collector: Collector, caller: Caller) -> None:
    await fleet.answer(caller, GREEDY)
    found = await collector.trace(caller.trace_id, *PHASES, "pick", "attempt", "text_completion tiny")
    door = door_of(found, caller)
    engine = [("octavo-engine", "internal", name, []) for name in PHASES]
    model = next(
        span.name for span in found.spans if span.service == "octavo-engine" and span.kind == "server"
    )
    assert found.tree(door) == (
        *("octavo-gateway", "server", "text_completion tiny"),
        [
            ("octavo-gateway", "internal", "pick", []),
            ("octavo-gateway", "client", "attempt", [("octavo-engine", "server", model, engine)]),
        ],
    )
    assert door.attributes["gen_ai.usage.output_tokens"] == 8
    assert door.attributes["gen_ai.response.finish_reasons"] == ["length"]


async def test_a_pick_tells_its_scores(fleet: Fleet, collector: Collector, caller: Caller) -> None:
    await fleet.answer(caller, GREEDY)
    found = await collector.trace(caller.trace_id, "pick", "attempt")
    pick = next(span for span in found.spans if span.name == "pick")
    attempt = next(span for span in found.spans if span.name == "attempt")
    address = f"{attempt.attributes['server.address']}:{attempt.attributes['server.port']}"
    assert pick.attributes.pop("octavo.pick.pod") == address
    assert pick.attributes.pop("octavo.pick.candidates") in (1, 2)
    assert "octavo.pick.score.total" in pick.attributes
    assert len(pick.attributes) >= 3
    assert all(0 <= score <= 1 for score in pick.attributes.values())


async def test_a_resubmission_after_kill_9_is_an_attempt_of_its_own(
    fleet: Fleet, collector: Collector, caller: Caller
) -> None:
    undisturbed = await fleet.answer(Caller(), LONG)
    assert await fleet.answer(caller, LONG, kill_after=20) == undisturbed
    found = await collector.trace(caller.trace_id, *PHASES, "text_completion tiny")
    door = door_of(found, caller)
    assert [span.name for span in found.children(door)] == ["pick", "attempt", "pick", "attempt"]
    first, second = (span for span in found.children(door) if span.name == "attempt")
    assert first.failed
    assert first.attributes["error.type"] == "UNAVAILABLE"
    assert first.attributes["octavo.attempt.number"] == 1
    assert not second.failed
    assert second.attributes["octavo.attempt.number"] == 2
    assert second.attributes["octavo.attempt.reason"] == "lost"
    assert 20 <= second.attributes["octavo.resumed_tokens"] < 3000
    assert first.attributes["server.port"] != second.attributes["server.port"]
    [pod] = found.children(second)
    assert pod.attributes["octavo.resumed_tokens"] == second.attributes["octavo.resumed_tokens"]
    assert not door.failed


async def test_a_request_that_no_pod_can_serve_is_an_error(
    fleet: Fleet, collector: Collector, caller: Caller
) -> None:
    await fleet.answer(Caller(), GREEDY)
    for process in fleet.pods.values():
        process.process.kill()
    [pool] = fleet.router.directory.pools()
    pool.set_route(Route(frozenset()))
    with pytest.raises(Unavailable):
        await fleet.answer(caller, GREEDY)
    found = await collector.trace(caller.trace_id, "pick", "text_completion tiny")
    door = door_of(found, caller)
    [pick] = found.children(door)
    for span in (pick, door):
        assert span.failed
        assert span.attributes["error.type"] == "UNAVAILABLE"


async def test_each_request_of_a_session_is_a_trace_of_its_own(fleet: Fleet, collector: Collector) -> None:
    stream, first, second = Caller(), Caller(), Caller()
    async with fleet.session(stream) as (send, ended):
        submit = pb.Submit(model="tiny", prompt=as_prompt("Hello"), sampling=GREEDY, hold=True)
        await send("a", submit=submit, traceparent=first.traceparent)
        await ended("a")
        follow = pb.Continue(from_request_id="a", prompt=as_prompt("and on"), sampling=GREEDY)
        await send("b", continuation=follow, traceparent=second.traceparent)
        await ended("b")
        await send("c", submit=pb.Submit(model="tiny", prompt=as_prompt("Again"), sampling=GREEDY))
        await ended("c")
    for name, caller in (("a", first), ("b", second), ("c", stream)):
        found = await collector.trace(caller.trace_id, *PHASES, "attempt", "text_completion tiny")
        door = door_of(found, caller)
        assert door.attributes["octavo.request_id"] == name
        assert door.attributes["gen_ai.usage.output_tokens"] == 8
        attempt = found.children(door)[-1]
        [pod] = found.children(attempt)
        assert (pod.service, pod.kind) == ("octavo-engine", "server")
        assert [span.name for span in found.children(pod)] == PHASES


async def test_a_request_of_a_session_that_moves_shows_both_pods(
    fleet: Fleet, collector: Collector, caller: Caller
) -> None:
    async with fleet.session(Caller()) as (send, ended):
        submit = pb.Submit(model="tiny", prompt=as_prompt("Hello"), sampling=LONG)
        await send("a", submit=submit, traceparent=caller.traceparent)
        await ended("a", after=20)
        fleet.kill_the_busy_one()
        await ended("a")
    found = await collector.trace(caller.trace_id, *PHASES, "text_completion tiny")
    door = door_of(found, caller)
    first, second = (span for span in found.children(door) if span.name == "attempt")
    assert first.attributes["error.type"] == "UNAVAILABLE"
    assert second.attributes["octavo.attempt.reason"] == "lost"
    assert second.attributes["octavo.resumed_tokens"] >= 20
    assert [pod.service for pod in found.children(second)] == ["octavo-engine"]


async def test_a_refused_command_of_a_session_says_so(
    fleet: Fleet, collector: Collector, caller: Caller
) -> None:
    async with fleet.session(Caller()) as (send, ended):
        submit = pb.Submit(model="another", prompt=as_prompt("Hello"))
        await send("a", submit=submit, traceparent=caller.traceparent)
        await ended("a")
    found = await collector.trace(caller.trace_id, "octavo.v1.Inference/Session")
    assert door_of(found, caller).attributes["error.type"] == "NOT_FOUND"


async def test_a_session_that_breaks_ends_its_spans(
    fleet: Fleet, collector: Collector, caller: Caller
) -> None:
    async with fleet.session(Caller(), breaks=True) as (send, ended):
        submit = pb.Submit(model="tiny", prompt=as_prompt("Hello"), sampling=LONG)
        await send("a", submit=submit, traceparent=caller.traceparent)
        await ended("a", after=5)
    found = await collector.trace(caller.trace_id, "attempt", "text_completion tiny")
    door = door_of(found, caller)
    attempt = found.children(door)[-1]
    assert door.attributes["error.type"] == attempt.attributes["error.type"] == "CANCELLED"


async def test_the_gateways_metrics_after_all_that(fleet: Fleet) -> None:
    await fleet.answer(Caller(), GREEDY)
    await fleet.answer(Caller(), LONG, kill_after=20)
    page = (await fleet.telemetry.page()).decode()
    samples = {
        (sample.name.removeprefix("octavo:gateway_"), *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }
    assert samples["requests_total", "OK", "tiny"] == 2
    assert samples["requests_in_flight", "tiny"] == 0
    assert samples["requests_waiting_for_pod", "tiny"] == 0
    assert samples["resubmissions_total", "lost", "tiny"] == 1
    assert samples["time_to_first_token_seconds_count", "tiny"] == 2
    assert samples["request_duration_seconds_count", "tiny"] == 2
    assert samples["pick_score_count", "tiny"] == 3
    assert samples["pods", "serving", "tiny"] == 1
    assert samples["pods", "ejected", "tiny"] == 1
    picks = [value for key, value in samples.items() if key[0] == "picks_total"]
    assert sum(picks) == 3
