"""What is still to be said to a pod when its stream ends keeps nobody waiting."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from octavo.service.gateway.config import GatewayConfig
from octavo.service.gateway.outbox import Outbox
from octavo.service.gateway.server import Server as Gateway
from octavo.service.gateway.sources import directory_of
from octavo.v1 import inference_pb2 as pb
from octavo.v1.inference_pb2_grpc import InferenceStub
from tests.gateway.fleet import until_serving
from tests.gateway.pods import FakePod
from tests.service.conftest import SessionClient


class Answering(FakePod):
    """Each request of a session gets one token."""

    async def Session(self, commands: AsyncIterator[pb.SessionRequest], context: Any) -> None:
        async for command in commands:
            delta = pb.Delta(token_ids=[0], finish_reason=pb.FINISH_REASON_LENGTH)
            for event in ({"accepted": pb.Accepted()}, {"delta": delta}):
                await context.write(pb.SessionResponse(request_id=command.request_id, **event))


class Failing:
    """A call that cannot be written to."""

    def add_done_callback(self, callback: Any) -> None: ...

    async def write(self, message: Any) -> None:
        raise ValueError("no such field")


@pytest.fixture
async def unanswered() -> AsyncIterator[grpc.aio.Channel]:
    """A connection that is being made and never is: a call there waits to begin."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.getsockname()[1]}") as channel:
            yield channel


async def test_a_write_ends_with_a_call_that_has_not_begun(unanswered: grpc.aio.Channel) -> None:
    call: Any = InferenceStub(unanswered).Session()
    outbox = Outbox(call)
    sending = [asyncio.create_task(outbox.send(pb.SessionRequest())) for _ in range(3)]
    _, waiting = await asyncio.wait(sending, timeout=0.05)
    assert len(waiting) == 3
    call.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*sending)
        await outbox.send(pb.SessionRequest())
        await outbox.done()


async def test_a_write_that_goes_wrong_tells_its_sender() -> None:
    with pytest.raises(ValueError, match="no such field"):
        await Outbox(Failing()).send(pb.SessionRequest())


async def test_a_pod_that_is_lost_before_its_stream_has_begun_costs_no_request(
    unanswered: grpc.aio.Channel,
) -> None:
    lost, other = await Answering().start(), await Answering().start()
    other.load.waiting = 32  # so that the first pick is the pod that will be lost
    config = GatewayConfig(pods=(f"tiny={lost.address}", f"tiny={other.address}"), port=0, http=False)
    async with directory_of(config) as directory:
        gateway = Gateway(config)
        await gateway.start(directory)
        await until_serving(directory, 2)
        [pool] = directory.pools()
        [pod] = [each for each in pool.pods if each.address == lost.address]
        pod.inference = InferenceStub(unanswered)
        async with grpc.aio.insecure_channel(gateway.address) as channel:
            session = SessionClient(InferenceStub(channel).Session())
            for name in "abc":
                await session.submit(name, "Hello")
            async with asyncio.timeout(5):
                while not pod.in_flight:
                    await asyncio.sleep(0.005)
            await lost.die()
            for name in "abc":
                assert (await session.answer(name)).token_ids == [0]
            await session.call.done_writing()
            assert await session.call.read() is grpc.aio.EOF
        await gateway.stop()
    await other.die()


async def test_a_request_that_is_cancelled_before_it_is_sent_is_under_way_nowhere(
    unanswered: grpc.aio.Channel,
) -> None:
    pod = await Answering().start()
    config = GatewayConfig(pods=(f"tiny={pod.address}",), port=0, http=False)
    async with directory_of(config) as directory:
        gateway = Gateway(config)
        await gateway.start(directory)
        await until_serving(directory, 1)
        [known] = [each for pool in directory.pools() for each in pool.pods]
        known.channel, answered = unanswered, known.channel
        async with grpc.aio.insecure_channel(gateway.address) as channel:
            call = InferenceStub(channel).Generate(pb.GenerateRequest(prompt=pb.Prompt(text="Hello")))
            async with asyncio.timeout(5):
                while not known.in_flight:
                    await asyncio.sleep(0.005)
                call.cancel()
                while known.in_flight:
                    await asyncio.sleep(0.005)
        known.channel = answered
        await gateway.stop()
    await pod.die()
