"""Too many requests, slow readers, clients that vanish: nobody else suffers and nothing leaks."""

from __future__ import annotations

import asyncio
import random
import sys

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status as RpcStatus

from octavo.v1 import inference_pb2 as pb
from octavo.v1.inference_pb2_grpc import InferenceStub
from tests.service.conftest import ENDLESS, GREEDY, ONE_SEAT, SMALL_WINDOW, Serving, World, as_prompt, collect

BULKY = pb.SamplingParams(temperature=0, ignore_eos=True, logprobs=20)
"""Output of some 200 bytes a token."""

ENDLESS_CLIENT = """
import sys, grpc
from octavo.v1 import inference_pb2 as pb
from octavo.v1.inference_pb2_grpc import InferenceStub

channel = grpc.insecure_channel(sys.argv[1])
sampling = pb.SamplingParams(temperature=0, ignore_eos=True)
submit = pb.Submit(prompt=pb.Prompt(text="Hello"), sampling=sampling)
request = pb.SessionRequest(request_id="a", submit=submit)
for event in InferenceStub(channel).Session(iter([request])):
    pass
"""


async def test_a_full_queue_refuses_with_the_time_to_wait(serving: Serving) -> None:
    world = await serving(max_waiting=2, **ONE_SEAT)
    request = pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=ENDLESS)
    calls = [world.inference.Generate(request)]
    await world.until_running()
    calls += [world.inference.Generate(request) for _ in range(2)]
    await world.until(lambda load: load.waiting == 2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(world.inference.Generate(request))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    status = RpcStatus.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    retry = RetryInfo()
    assert status.details[0].Unpack(retry)
    assert retry.retry_delay.ToTimedelta().total_seconds() > 0
    for call in calls:
        call.cancel()


async def test_in_a_session_a_full_queue_rejects_one_request(serving: Serving) -> None:
    world = await serving(max_waiting=1, **ONE_SEAT)
    session = world.session()
    await session.submit("running", "Hello", sampling=ENDLESS)
    await world.until_running()
    await session.submit("waiting", "Hello")
    await session.submit("refused", "Hello")
    assert (await session.rejection("refused")).code == "RESOURCE_EXHAUSTED"
    await session.cancel("running")
    assert (await session.answer("waiting")).usage.output_tokens == 8


async def test_lower_priority_values_go_first(serving: Serving) -> None:
    world = await serving(**ONE_SEAT)
    session = world.session()
    await session.submit("running", "Hello", sampling=ENDLESS)
    await world.until_running()
    await session.submit("late", "Hello", priority=1)
    await session.submit("soon", "Hello", priority=-1)
    await world.until(lambda load: load.waiting == 2, seconds=20)
    await session.cancel("running")
    await session.answer("late")
    finished = [name for name in ("soon", "late") if session.events[name]]
    assert finished == ["soon"]  # all of it had come before the late one's end


async def test_a_slow_reader_pauses_itself_and_nobody_else(serving: Serving) -> None:
    world = await serving(stream_buffer=8)
    channel = grpc.aio.insecure_channel(world.address, options=SMALL_WINDOW)
    slow = InferenceStub(channel).Generate(pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=BULKY))
    await slow.read()
    async with asyncio.timeout(10):
        while await tokens_during(world, 0.2):
            pass
    assert world.engine.load().running == 1  # not finished, only paused

    quick = pb.GenerateRequest(prompt=as_prompt("Good morning"), sampling=GREEDY)
    async with asyncio.timeout(20):
        assert (await collect(world.inference.Generate(quick))).usage.output_tokens == 8

    before = world.engine.load().total_output_tokens
    for _ in range(500):
        await slow.read()
    await world.until(lambda load: load.total_output_tokens > before)  # having read, it goes on
    await channel.close()
    await world.until_idle()


async def test_a_client_that_closes_its_channel_frees_its_blocks(world: World) -> None:
    async with grpc.aio.insecure_channel(world.address) as channel:
        session = World(world.engine, world.server, channel, InferenceStub(channel), None).session()
        await session.submit("held", "Hello", hold=True)
        await session.answer("held")
        await session.submit("running", "Hello", sampling=ENDLESS)
        await world.until_running()
    await world.until_idle()


async def test_a_held_request_whose_end_was_never_read_is_released_with_its_session(
    serving: Serving,
) -> None:
    world = await serving(stream_buffer=4096)
    async with grpc.aio.insecure_channel(world.address, options=SMALL_WINDOW) as channel:
        session = World(world.engine, world.server, channel, InferenceStub(channel), None).session()
        bulky = pb.SamplingParams(temperature=0, ignore_eos=True, logprobs=20, max_tokens=400)
        await session.submit("held", "Hello", hold=True, sampling=bulky)
        await world.until(lambda load: load.total_output_tokens == 400)
        await world.until(lambda load: load.running == 0 and load.held_blocks > 0)
    await world.until_idle()


async def test_a_client_that_is_killed_frees_its_blocks(world: World) -> None:
    client = await asyncio.create_subprocess_exec(sys.executable, "-c", ENDLESS_CLIENT, world.address)
    await world.until_running(seconds=20)
    client.kill()
    await world.until_idle()
    await client.wait()


async def test_64_streams_with_slow_readers_and_random_cancels_leave_nothing_behind(
    serving: Serving,
) -> None:
    world = await serving(stream_buffer=4, max_num_seqs=16)
    chance = random.Random(5)
    fates = [chance.choice(["read", "slow", "cancel", "vanish"]) for _ in range(64)]
    async with asyncio.timeout(60):
        outcomes = await asyncio.gather(
            *(live(world, fate, random.Random(i)) for i, fate in enumerate(fates))
        )
    assert [fate for fate, _ in outcomes] == fates
    for fate, tokens in outcomes:
        if fate in ("read", "slow"):
            assert tokens == 40
    await world.until_idle()


async def test_64_requests_in_one_session_with_random_cancels_all_end(serving: Serving) -> None:
    world = await serving(stream_buffer=4, max_num_seqs=16)
    chance = random.Random(6)
    names = [f"request-{i}" for i in range(64)]
    session = world.session()
    sampling = pb.SamplingParams(max_tokens=40, ignore_eos=True)
    for i, name in enumerate(names):
        await session.submit(name, f"Hello {i}", sampling=sampling, hold=chance.random() < 0.5)
    for name in chance.sample(names, 20):
        await session.cancel(name)
    async with asyncio.timeout(60):
        answers = [await session.answer(name) for name in names]
    cancelled = [answer for answer in answers if answer.finish_reason == pb.FINISH_REASON_CANCELLED]
    assert 0 < len(cancelled) <= 20
    assert all(len(answer.token_ids) == 40 for answer in answers if answer not in cancelled)
    await session.call.done_writing()
    await world.until_idle()


async def live(world: World, fate: str, chance: random.Random) -> tuple[str, int]:
    """One client's life; how many tokens it got."""
    prompt = pb.Prompt(token_ids=pb.TokenIds(ids=[chance.randrange(3, 300) for _ in range(40)]))
    sampling = pb.SamplingParams(max_tokens=40, ignore_eos=True, seed=chance.randrange(1000))
    call = world.inference.Generate(pb.GenerateRequest(prompt=prompt, sampling=sampling))
    tokens = 0
    async for response in call:
        tokens += len(response.delta.token_ids)
        if fate == "slow":
            await asyncio.sleep(chance.random() / 20)
        elif fate == "cancel" and tokens >= chance.randrange(1, 40):
            call.cancel()
            break
        elif fate == "vanish":
            break
    del call
    return fate, tokens


async def tokens_during(world: World, seconds: float) -> int:
    before = world.engine.load().total_output_tokens
    await asyncio.sleep(seconds)
    return world.engine.load().total_output_tokens - before
