"""Pods without `Engine.Relay`, as in a rolling upgrade: each request there has a call of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

import grpc
import pytest

from octavo.service.backend import Origin
from octavo.service.gateway.directory import Directory
from octavo.service.gateway.endpoints.static import StaticSource
from octavo.service.gateway.pod import Pod
from octavo.service.gateway.router import Router
from octavo.service.rpc.refusals import Relayed
from octavo.service.telemetry.context import from_metadata
from octavo.v1 import engine_pb2
from octavo.v1 import inference_pb2 as pb
from tests.gateway.fleet import until_serving
from tests.gateway.pods import FakePod

RELAY = f"/{engine_pb2.DESCRIPTOR.services_by_name['Engine'].full_name}/Relay"
TOKENS = 20
HELLO = pb.GenerateRequest(prompt=pb.Prompt(text="Hello"))
TRACE = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


class WithoutRelay(grpc.aio.ServerInterceptor):
    """Has the server answer as one that has never heard of the method."""

    def __init__(self) -> None:
        self.asked = 0

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        if handler_call_details.method != RELAY:
            return await continuation(handler_call_details)
        self.asked += 1
        return None


class OlderPod(FakePod):
    """Its output is 0, 1, 2, …, from where a request says that it is to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.without_relay = WithoutRelay()
        self.interceptors = (self.without_relay,)
        self.asked = 0
        self.cancelled = 0
        self.metadata: dict[str, Any] = {}

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> None:
        self.asked += 1
        self.metadata = dict(context.invocation_metadata())
        if request.sampling.top_p > 1:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "sampling.top_p: must be in (0, 1]")
        try:
            for token in range(len(request.resume.token_ids), TOKENS):
                await asyncio.sleep(0.005)
                ends = pb.FINISH_REASON_LENGTH if token == TOKENS - 1 else None
                delta = pb.Delta(token_ids=[token], finish_reason=ends)
                await context.write(pb.GenerateResponse(delta=delta))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@pytest.fixture
async def route() -> AsyncIterator[Callable[..., Awaitable[Router]]]:
    """A router over these pods, which have been started."""
    async with AsyncExitStack() as stack:

        async def start(*pods: OlderPod) -> Router:
            for pod in pods:
                await pod.start()
                stack.push_async_callback(pod.die)
            directory = Directory(StaticSource([f"tiny={pod.address}" for pod in pods]))
            await directory.start()
            stack.push_async_callback(directory.stop)
            router = Router(directory)
            stack.push_async_callback(router.close)
            await until_serving(directory, len(pods))
            return router

        yield start


def known(router: Router) -> Pod:
    [pool] = router.directory.pools()
    [pod] = pool.pods
    return pod


async def answer(
    router: Router, request: pb.GenerateRequest = HELLO, origin: Origin | None = None
) -> list[int]:
    async with aclosing(router.generate(request, origin or Origin())) as deltas:
        return [token async for delta in deltas for token in delta.token_ids]


async def test_each_request_has_a_call_and_the_relay_is_tried_once(route: Any) -> None:
    pod = OlderPod()
    router = await route(pod)
    at_once = await asyncio.gather(*(answer(router) for _ in range(8)))
    assert at_once == [list(range(TOKENS))] * 8
    assert await answer(router) == list(range(TOKENS))
    assert pod.asked == 9
    assert pod.without_relay.asked == 1
    assert not known(router).in_flight


async def test_the_call_belongs_to_the_trace_of_its_request(route: Any) -> None:
    pod = OlderPod()
    await answer(await route(pod), origin=Origin(context=from_metadata([TRACE])))
    assert pod.metadata["traceparent"] == TRACE[1]


async def test_what_it_refuses_is_refused(route: Any) -> None:
    router = await route(OlderPod())
    with pytest.raises(Relayed, match="top_p"):
        await answer(router, pb.GenerateRequest(sampling=pb.SamplingParams(top_p=2)))
    assert await answer(router) == list(range(TOKENS))


async def test_a_client_that_leaves_ends_its_call(route: Any) -> None:
    pod = OlderPod()
    router = await route(pod)
    async with aclosing(router.generate(HELLO, Origin())) as deltas:
        await anext(deltas)
    async with asyncio.timeout(5):
        while not pod.cancelled:
            await asyncio.sleep(0.005)
    assert not known(router).in_flight


async def test_a_request_goes_on_at_another_one(route: Any) -> None:
    pods = [OlderPod(), OlderPod()]
    router = await route(*pods)
    tokens: list[int] = []
    async with aclosing(router.generate(HELLO, Origin())) as deltas:
        async for delta in deltas:
            tokens += delta.token_ids
            if len(tokens) == 5:
                [busy] = [pod for pod in pods if pod.asked]
                await busy.die()
    assert tokens == list(range(TOKENS))
    assert [pod.asked for pod in pods] == [1, 1]


async def test_one_that_comes_back_may_have_learnt_it(route: Any) -> None:
    pod = OlderPod()
    router = await route(pod)
    await answer(router)
    assert not known(router).relays
    await pod.die()
    await pod.start()
    await until_serving(router.directory, 1)
    async with asyncio.timeout(5):
        while not known(router).relays:
            await asyncio.sleep(0.005)
