"""`Engine.Relay`: many requests of a gateway on one stream, whose events come together."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import replace
from typing import Any

import grpc
import pytest

from octavo.v1 import engine_pb2
from octavo.v1 import inference_pb2 as pb
from octavo.v1.engine_pb2_grpc import EngineStub
from tests.service.conftest import (
    ENDLESS,
    GREEDY,
    SMALL_WINDOW,
    Answer,
    Serving,
    World,
    as_prompt,
    collect,
    refusal,
)


class RelayClient:
    """The gateway's side: begins requests, and keeps the events of each apart."""

    def __init__(self, world: World) -> None:
        self.call = world.cluster.Relay()
        self.answers: dict[int, list[pb.Delta]] = defaultdict(list)
        self.errors: dict[int, pb.Status] = {}
        self.batches: list[set[int]] = []

    async def generate(self, number: int, prompt: str, sampling: pb.SamplingParams = GREEDY) -> None:
        request = pb.GenerateRequest(prompt=as_prompt(prompt), sampling=sampling)
        await self.send(number, generate=request.SerializeToString())

    async def send(self, number: int, **command: Any) -> None:
        await self.call.write(engine_pb2.RelayRequest(request_id=number, **command))

    async def read(self) -> None:
        """One batch of events."""
        response = await asyncio.wait_for(self.call.read(), 20)
        self.batches.append({event.request_id for event in response.events})
        for event in response.events:
            if event.HasField("error"):
                self.errors[event.request_id] = event.error
            else:
                delta = pb.GenerateResponse.FromString(event.response).delta
                self.answers[event.request_id].append(delta)

    async def answer(self, number: int) -> Answer:
        while not (self.answers[number] and self.answers[number][-1].finish_reason):
            assert number not in self.errors, self.errors[number]
            await self.read()
        return Answer(self.answers[number])

    async def error(self, number: int) -> pb.Status:
        while number not in self.errors:
            await self.read()
        return self.errors[number]


@pytest.fixture
async def relay(world: World) -> RelayClient:
    return RelayClient(world)


async def test_requests_are_answered_as_by_generate(world: World, relay: RelayClient) -> None:
    for number in range(8):
        await relay.generate(number, f"Hello {number}")
    for number in range(8):
        request = pb.GenerateRequest(prompt=as_prompt(f"Hello {number}"), sampling=GREEDY)
        direct = await collect(world.inference.Generate(request))
        relayed = await relay.answer(number)
        assert (relayed.text, relayed.token_ids) == (direct.text, direct.token_ids)
        assert relayed.finish_reason == direct.finish_reason
    await world.until_idle()


async def test_what_one_step_brings_comes_in_one_message(relay: RelayClient) -> None:
    for number in range(16):
        await relay.generate(
            number, "Hello", pb.SamplingParams(temperature=0, ignore_eos=True, max_tokens=64)
        )
    for number in range(16):
        await relay.answer(number)
    events = sum(map(len, relay.batches))
    assert events > 4 * len(relay.batches)


async def test_a_request_that_is_refused_or_unreadable_ends_alone(world: World, relay: RelayClient) -> None:
    await relay.generate(1, "Hello", ENDLESS)
    await relay.generate(2, "Hello", pb.SamplingParams(top_p=2))
    later = pb.GenerateRequest(prompt=as_prompt("Hello")).SerializeToString() + b"\xf8\x3f\x01"
    await relay.send(3, generate=later)
    assert refusal(await relay.error(2)).violations[0][0] == "sampling.top_p"
    assert "is not known" in (await relay.error(3)).message
    before = len(relay.answers[1])
    while len(relay.answers[1]) < before + 3:
        await relay.read()
    relay.call.cancel()


async def test_a_cancelled_request_ends_without_a_word_and_frees_its_blocks(
    world: World, relay: RelayClient
) -> None:
    await relay.generate(1, "Hello", ENDLESS)
    await world.until_running()
    await relay.send(1, cancel=engine_pb2.RelayCancel())
    await world.until_idle()
    await relay.generate(2, "Hello")
    await relay.answer(2)
    assert not relay.answers[1] or not relay.answers[1][-1].finish_reason


async def test_a_paused_request_waits_and_others_go_on(serving: Serving) -> None:
    world = await serving(stream_buffer=4)
    relay = RelayClient(world)
    await relay.generate(1, "Hello", pb.SamplingParams(temperature=0, ignore_eos=True, max_tokens=200))
    while not relay.answers[1]:
        await relay.read()
    await relay.send(1, pause=engine_pb2.RelayPause())
    await relay.generate(2, "Good morning")
    await relay.answer(2)
    told = sum(len(delta.token_ids) for delta in relay.answers[1])
    assert told < 100
    await relay.send(1, proceed=engine_pb2.RelayProceed())
    assert len((await relay.answer(1)).token_ids) == 200


async def test_commands_about_requests_that_have_ended_do_nothing(relay: RelayClient) -> None:
    for command in ("cancel", "pause", "proceed"):
        await relay.send(9, **{command: getattr(engine_pb2, f"Relay{command.capitalize()}")()})
    await relay.generate(1, "Hello")
    assert (await relay.answer(1)).text


async def test_what_is_no_command_ends_the_stream_and_all_its_requests(
    world: World, relay: RelayClient
) -> None:
    await relay.generate(1, "Hello", ENDLESS)
    await world.until_running()
    await relay.send(2)
    with pytest.raises(grpc.aio.AioRpcError, match="one of generate, cancel, pause, proceed") as caught:
        await relay.answer(2)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    await world.until_idle()


async def test_a_stream_ends_also_while_its_first_events_are_on_their_way(world: World) -> None:
    """More than a client takes that does not read yet: the write waits, and is given up."""
    of_prompt = pb.SamplingParams(temperature=0, ignore_eos=True, prompt_logprobs=20)
    async with grpc.aio.insecure_channel(world.address, options=SMALL_WINDOW) as channel:
        relay = RelayClient(replace(world, cluster=EngineStub(channel)))
        await relay.generate(1, "Hello " * 2000, of_prompt)
        await world.until(lambda load: load.total_output_tokens > 1)
        await relay.send(2)
        await world.until_idle()
        with pytest.raises(grpc.aio.AioRpcError, match="one of generate, cancel, pause, proceed"):
            await relay.answer(2)


async def test_the_end_of_the_stream_ends_all_its_requests(world: World, relay: RelayClient) -> None:
    for number in range(4):
        await relay.generate(number, "Hello", ENDLESS)
    await world.until_running()
    relay.call.cancel()
    await world.until_idle()


async def test_a_drained_server_refuses_new_requests_and_ends_the_stream_with_unavailable(
    world: World, relay: RelayClient
) -> None:
    await relay.generate(1, "Hello")
    await relay.answer(1)
    await world.server.drain(0)
    await relay.generate(2, "Hello")
    assert (await relay.error(2)).code == grpc.StatusCode.UNAVAILABLE.value[0]
    await world.server.stop()
    assert await relay.call.code() == grpc.StatusCode.UNAVAILABLE
