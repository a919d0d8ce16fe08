"""A session whose pods come and go: turns are rebuilt elsewhere, and its client notices nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2

from octavo.engine.async_engine import AsyncEngine
from octavo.service.config import ServerConfig
from octavo.service.gateway.config import GatewayConfig
from octavo.service.gateway.directory import Directory
from octavo.service.gateway.picker import Query
from octavo.service.gateway.pod import PodState
from octavo.service.gateway.pool import Pick, Pool
from octavo.service.gateway.server import Server as Gateway
from octavo.service.gateway.session import Session
from octavo.service.gateway.session_turn import Turn
from octavo.service.gateway.session_upstream import Upstream
from octavo.service.gateway.sources import directory_of
from octavo.service.rpc.refusals import Relayed
from octavo.service.server.server import Server
from octavo.v1 import inference_pb2 as pb
from octavo.v1.inference_pb2_grpc import InferenceStub
from tests.conftest import TinyModel
from tests.gateway.fleet import until_serving
from tests.service.conftest import (
    ENDLESS,
    ONE_SEAT,
    Answer,
    SessionClient,
    as_prompt,
    chat,
    collect,
    small_engine,
)

DRAWN = pb.SamplingParams(temperature=1.0, seed=3, ignore_eos=True, max_tokens=12)
LONG = pb.SamplingParams(temperature=0, ignore_eos=True, max_tokens=200)


@dataclass
class Pod:
    engine: AsyncEngine
    server: Server

    async def die(self) -> None:
        """At once, as if by kill -9: connections break, and nobody is told why."""
        await self.server._grpc.stop(None)

    @property
    def running(self) -> int:
        return self.engine.load().running

    @property
    def held_blocks(self) -> int:
        return self.engine.load().held_blocks


@dataclass
class Fleet:
    """Pods, and a gateway in front of them."""

    pods: list[Pod]
    directory: Directory
    inference: Any

    def session(self) -> SessionClient:
        return SessionClient(self.inference.Session())

    async def until(self, holds: Callable[[], bool], seconds: float = 10.0) -> None:
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(0.005)

    async def busy(self) -> Pod:
        """The only pod that runs something, once there is one."""
        await self.until(lambda: any(pod.running for pod in self.pods))
        [busy] = [pod for pod in self.pods if pod.running]
        return busy

    def holding(self) -> Pod:
        """The only pod that holds something."""
        [holding] = [pod for pod in self.pods if pod.held_blocks]
        return holding

    def other(self, pod: Pod) -> Pod:
        [other] = [each for each in self.pods if each is not pod]
        return other


@asynccontextmanager
async def fleet_of(count: int, model: str, patience: float = 1.0, **settings: Any) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        pods = []
        for _ in range(count):
            server = Server(ServerConfig(), "127.0.0.1:0")
            engine = AsyncEngine.load_model(small_engine(model, **settings))
            await server.start(engine)
            stack.push_async_callback(server.stop)
            pods.append(Pod(engine, server))
        addresses = tuple(f"tiny={pod.server.address}" for pod in pods)
        config = GatewayConfig(pods=addresses, port=0, http=False, patience=patience)
        directory = await stack.enter_async_context(directory_of(config))
        gateway = Gateway(config)
        await gateway.start(directory)
        stack.push_async_callback(gateway.stop)
        await until_serving(directory, count)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(gateway.address))
        yield Fleet(pods, directory, InferenceStub(channel))


@pytest.fixture
def patience() -> float:
    """Seconds that a request waits for a pod."""
    return 1.0


@pytest.fixture
async def fleet(tiny_model: TinyModel, patience: float) -> AsyncIterator[Fleet]:
    model = str(tiny_model("llama", max_position_embeddings=32768))
    async with fleet_of(2, model, patience) as fleet:
        yield fleet


async def talk(session: SessionClient, name: str, turns: int, sampling: pb.SamplingParams) -> list[Answer]:
    """A chat of some turns, each of which continues the one before; the last one is held."""
    await session.submit(f"{name}-0", chat("Hello"), hold=True, sampling=sampling)
    answers = [await session.answer(f"{name}-0")]
    for i in range(1, turns):
        await session.continue_from(
            f"{name}-{i - 1}", f"{name}-{i}", chat(f"And then {i}?"), hold=True, sampling=sampling
        )
        answers.append(await session.answer(f"{name}-{i}"))
    return answers


@pytest.mark.parametrize("sampling", [LONG, DRAWN], ids=["greedy", "seeded"])
async def test_a_running_request_goes_on_where_it_was(fleet: Fleet, sampling: pb.SamplingParams) -> None:
    request = pb.GenerateRequest(prompt=chat("Hello"), sampling=sampling)
    request.sampling.max_tokens = 200
    undisturbed = await collect(fleet.inference.Generate(request))
    session = fleet.session()
    await session.submit("a", chat("Hello"), sampling=request.sampling)
    await (await fleet.busy()).die()
    answer = await session.answer("a")
    assert answer.token_ids == undisturbed.token_ids
    assert answer.text == undisturbed.text
    assert answer.usage.output_tokens == 200
    assert [delta.usage.output_tokens for delta in answer.deltas] == sorted(
        {delta.usage.output_tokens for delta in answer.deltas}
    )


@pytest.mark.parametrize("sampling", [pb.SamplingParams(temperature=0, max_tokens=12), DRAWN])
async def test_a_chat_goes_on_after_its_pod_is_gone(fleet: Fleet, sampling: pb.SamplingParams) -> None:
    before = fleet.session()
    undisturbed = await talk(before, "u", 4, sampling)
    before.call.cancel()
    await fleet.until(lambda: not any(pod.held_blocks for pod in fleet.pods))
    session = fleet.session()
    first = await talk(session, "a", 3, sampling)
    await fleet.holding().die()
    await session.continue_from("a-2", "a-3", chat("And then 3?"), hold=True, sampling=sampling)
    answers = [*first, await session.answer("a-3")]
    assert [answer.text for answer in answers] == [answer.text for answer in undisturbed]
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in undisturbed]
    assert answers[-1].usage.prompt_tokens == undisturbed[-1].usage.prompt_tokens


async def test_a_continuation_that_runs_when_its_pod_dies_goes_on(fleet: Fleet) -> None:
    session = fleet.session()
    await session.submit("a", chat("Hello"), hold=True)
    await session.answer("a")
    await session.continue_from("a", "whole", chat("And then?"), sampling=LONG, keep_parent=True)
    whole = await session.answer("whole")
    await session.continue_from("a", "moved", chat("And then?"), sampling=LONG)
    await (await fleet.busy()).die()
    moved = await session.answer("moved")
    assert (moved.text, moved.token_ids) == (whole.text, whole.token_ids)
    await session.continue_from("a", "again", chat("And then?"))
    assert (await session.rejection("again")).code == "NOT_FOUND"


async def test_branches_of_a_kept_parent_move_together(fleet: Fleet) -> None:
    session = fleet.session()
    await session.submit("a", chat("Hello"), hold=True)
    await session.answer("a")
    wholes = []
    for i in range(3):
        await session.continue_from("a", f"w{i}", chat(f"Go {i}"), sampling=LONG, keep_parent=True)
        wholes.append((await session.answer(f"w{i}")).text)
    for i in range(3):
        await session.continue_from("a", f"m{i}", chat(f"Go {i}"), sampling=LONG, keep_parent=True)
    pod = await fleet.busy()
    survivor = fleet.other(pod)
    await pod.die()
    assert [(await session.answer(f"m{i}")).text for i in range(3)] == wholes
    await session.continue_from("a", "later", chat("Go on"), keep_parent=True)
    assert (await session.answer("later")).text
    await session.cancel("a")
    await fleet.until(lambda: not survivor.held_blocks)


async def test_what_is_released_after_its_pod_is_gone_is_gone(fleet: Fleet) -> None:
    session = fleet.session()
    await talk(session, "a", 2, DRAWN)
    await fleet.holding().die()
    await session.cancel("a-1")
    await session.cancel("a-1")
    assert (await session.rejection("a-1")).code == "NOT_FOUND"


async def test_a_drained_pods_turns_go_on_elsewhere_and_nothing_stays_there(fleet: Fleet) -> None:
    session = fleet.session()
    await talk(session, "a", 2, DRAWN)
    pod = fleet.holding()
    await pod.server.drain(0)
    await session.continue_from("a-1", "a-2", chat("And then?"), hold=True)
    assert (await session.answer("a-2")).text
    await fleet.until(lambda: not pod.held_blocks)
    assert fleet.other(pod).held_blocks


async def test_a_request_whose_pod_drains_away_moves(fleet: Fleet) -> None:
    whole = await collect(fleet.inference.Generate(pb.GenerateRequest(prompt=as_prompt("Hi"), sampling=LONG)))
    session = fleet.session()
    await session.submit("a", "Hi", sampling=LONG)
    await (await fleet.busy()).server.drain(0.05)
    assert (await session.answer("a")).text == whole.text


async def test_a_long_chat_moves_as_a_whole(fleet: Fleet) -> None:
    short = pb.SamplingParams(temperature=0, ignore_eos=True, max_tokens=2)
    session = fleet.session()
    await talk(session, "a", 60, short)
    await fleet.holding().die()
    await session.continue_from("a-59", "last", chat("The end?"), sampling=short)
    answer = await session.answer("last")
    assert answer.usage.prompt_tokens > 60 * 4


async def test_without_a_pod_a_request_is_rejected_and_one_that_ran_fails(fleet: Fleet) -> None:
    session = fleet.session()
    await session.submit("ran", "Hello", sampling=ENDLESS)
    assert (await session.next_event("ran")).WhichOneof("event") == "accepted"
    for pod in fleet.pods:
        await pod.die()
    await session.submit("new", "Hello")
    rejected = await session.rejection("new")
    assert rejected.code == "UNAVAILABLE"
    while (event := await session.next_event("ran")).WhichOneof("event") == "delta":
        pass
    assert event.failed.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert event.failed.details[0].type_url.endswith("google.rpc.RetryInfo")


@pytest.mark.parametrize("patience", [60.0])
async def test_a_request_that_waits_for_a_pod_can_be_cancelled(fleet: Fleet) -> None:
    session = fleet.session()
    await session.submit("ran", "Hello", sampling=ENDLESS)
    await session.next_event("ran")
    assert (await session.next_event("ran")).delta.token_ids
    for pod in fleet.pods:
        await pod.die()
    [pool] = fleet.directory.pools()
    await session.submit("new", "Hello")
    await fleet.until(lambda: pool.waiting == 2)
    await session.cancel("new")
    assert (await session.rejection("new")).code == "CANCELLED"
    await session.cancel("ran")
    while not (event := await session.next_event("ran")).delta.finish_reason:
        assert event.WhichOneof("event") == "delta"
    assert event.delta.finish_reason == pb.FINISH_REASON_CANCELLED
    assert event.delta.usage.output_tokens > 0


@pytest.mark.parametrize("patience", [60.0])
async def test_commands_do_not_wait_for_the_pod_that_a_request_waits_for(fleet: Fleet) -> None:
    """Which goes on from a parent that nothing else can go on from meanwhile."""
    session = fleet.session()
    await session.submit("parent", "Hello", hold=True)
    await session.answer("parent")
    for pod in fleet.pods:
        await pod.die()
    [pool] = fleet.directory.pools()
    await fleet.until(lambda: not any(pod.state is PodState.SERVING for pod in pool.pods))
    await session.continue_from("parent", "waits", " again")
    await fleet.until(lambda: pool.waiting == 1)
    await session.continue_from("parent", "too late", " more")
    refusal = await session.rejection("too late")
    assert refusal.code == "FAILED_PRECONDITION"
    assert "'waits' waits for a pod" in refusal.message
    await session.cancel("waits")
    assert (await session.rejection("waits")).code == "CANCELLED"
    await session.continue_from("parent", "in time", " more")
    await fleet.until(lambda: pool.waiting == 1)


async def test_what_a_pod_refuses_at_once_ends_alone(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Session._start

    async def start(self: Session, turn: Turn, upstream: Upstream, parent_key: str) -> None:
        if turn.name == "refused":
            raise Relayed(pb.Status(code=code_pb2.INVALID_ARGUMENT, message="no"))
        await begin(self, turn, upstream, parent_key)

    monkeypatch.setattr(Session, "_start", start)
    session = fleet.session()
    await session.submit("refused", "Hello")
    assert (await session.rejection("refused")).code == "INVALID_ARGUMENT"
    await session.submit("taken", "Hello")
    assert (await session.answer("taken")).token_ids
    [pool] = fleet.directory.pools()
    assert not any(pod.in_flight for pod in pool.pods)


@pytest.mark.parametrize("patience", [5.0])
async def test_a_cancel_without_a_pod_ends_each_output(fleet: Fleet) -> None:
    session = fleet.session()
    await session.submit("a", "Hello", sampling=pb.SamplingParams(n=3, seed=1, ignore_eos=True))
    assert (await session.next_event("a")).WhichOneof("event") == "accepted"
    assert (await session.next_event("a")).delta.token_ids
    for pod in fleet.pods:
        await pod.die()
    [pool] = fleet.directory.pools()
    await fleet.until(lambda: pool.waiting == 1)
    await session.cancel("a")
    ends: dict[int, int] = {}
    while len(ends) < 3:
        delta = (await session.next_event("a")).delta
        assert delta.index not in ends
        if delta.finish_reason:
            ends[delta.index] = delta.finish_reason
    assert set(ends.values()) == {pb.FINISH_REASON_CANCELLED}
    await session.submit("a", "Hello again")
    assert (await session.rejection("a")).code == "UNAVAILABLE"  # the id is free again


async def test_several_outputs_go_on_from_a_chat_whose_pod_is_gone(fleet: Fleet) -> None:
    session = fleet.session()
    await talk(session, "a", 2, DRAWN)
    several = pb.SamplingParams(n=2, seed=4, temperature=0.9, ignore_eos=True, max_tokens=100)
    outputs = []
    for name, dies in (("stays", False), ("moves", True)):
        await session.continue_from("a-1", name, chat("Why?"), keep_parent=True, sampling=several)
        if dies:
            await (await fleet.busy()).die()
        assert (await session.next_event(name)).WhichOneof("event") == "accepted"
        deltas: list[pb.Delta] = []
        while sum(bool(delta.finish_reason) for delta in deltas) < 2:
            deltas.append((await session.next_event(name)).delta)
        texts = ["".join(delta.text for delta in deltas if delta.index == index) for index in range(2)]
        outputs.append((texts, deltas[-1].usage.prompt_tokens, deltas[-1].usage.output_tokens))
    assert outputs[0] == outputs[1]
    assert outputs[0][2] == 200


async def test_requests_of_one_session_are_spread_over_pods(fleet: Fleet) -> None:
    session = fleet.session()
    for i in range(12):
        await session.submit(f"r{i}", f"Hello {i}", sampling=LONG)
    await fleet.until(lambda: all(pod.running > 2 for pod in fleet.pods))
    for i in range(12):
        await session.answer(f"r{i}")
    assert not any(pod.held_blocks for pod in fleet.pods)


async def test_a_session_that_breaks_leaves_nothing_behind_on_any_pod(fleet: Fleet) -> None:
    session = fleet.session()
    for i in range(8):
        await session.submit(f"held{i}", f"Hello {i}", hold=True)
        await session.answer(f"held{i}")
        await session.submit(f"r{i}", f"Hello {i}", sampling=ENDLESS)
    await fleet.until(lambda: all(pod.running for pod in fleet.pods))
    session.call.cancel()
    await fleet.until(lambda: not any(pod.held_blocks or pod.running for pod in fleet.pods))


async def test_a_full_queue_is_not_the_last_word(tiny_model: TinyModel) -> None:
    model = str(tiny_model("llama", max_position_embeddings=32768))
    async with fleet_of(2, model, max_waiting=1, **ONE_SEAT) as fleet:
        session = fleet.session()
        for i in range(4):  # one runs and one waits on each pod, wherever the picks would have put them
            await session.submit(f"r{i}", f"Hello {i}", sampling=ENDLESS)
            assert (await session.next_event(f"r{i}")).WhichOneof("event") == "accepted"
            loads = [pod.engine.load for pod in fleet.pods]
            await fleet.until(
                lambda loads=loads: not any(load().waiting and not load().running for load in loads)
            )
        await session.submit("refused", "Hello")
        refusal = await session.rejection("refused")
        assert refusal.code == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("kind", ["Session", "Generate", "Tokenize"])
async def test_a_pod_that_goes_between_the_pick_and_the_call_is_left(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    gone = []
    choose = Pool.pick

    async def pick(self: Pool, query: Query, patience: float) -> Pick:
        pick = await choose(self, query, patience)
        if not gone:
            gone.append(pick.pod.address)
            await pick.pod.close()
        return pick

    monkeypatch.setattr(Pool, "pick", pick)
    match kind:
        case "Session":
            session = fleet.session()
            await session.submit("a", "Hello", sampling=DRAWN)
            assert (await session.answer("a")).finish_reason == pb.FINISH_REASON_LENGTH
        case "Generate":
            request = pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=DRAWN)
            assert await collect(fleet.inference.Generate(request))
        case "Tokenize":
            assert (await fleet.inference.Tokenize(pb.TokenizeRequest(text="Hello"))).token_ids
    assert gone
