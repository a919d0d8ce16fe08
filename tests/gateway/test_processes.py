"""Pods are killed, stopped and drained under thirty streams: every one is what it would have been."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import openai
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from octavo.v1 import inference_pb2 as pb
from tests.gateway.processes import Gateway, PodProcess, gateway, until, until_serving
from tests.service.conftest import as_prompt
from tests.session import Session

STREAMS, TOKENS = 30, 300
WAYS = ("generate", "session", "http")
Output = tuple[str, str]
"""Text, and how it ended."""


def sampling(index: int) -> dict[str, Any]:
    """Every other request draws its tokens."""
    drawn = {"temperature": 0.8, "seed": index} if index % 2 else {"temperature": 0.0}
    return {"max_tokens": TOKENS, "ignore_eos": True, "repetition_penalty": 1.1, **drawn}


def prompt(index: int) -> str:
    return f"Request number {index} is about pages of keys and values."


class Streams:
    """Requests under way by all the ways there are, with what each has brought so far."""

    def __init__(self, door: Gateway) -> None:
        self.door = door
        self.texts: list[list[str]] = [[] for _ in range(STREAMS)]
        self.session = Session(door.inference.Session())
        self.tasks = [asyncio.create_task(self._run(index)) for index in range(STREAMS)]

    async def under_way(self) -> None:
        async with asyncio.timeout(30):
            while not all(self.texts):
                await asyncio.sleep(0.005)
        assert not all(task.done() for task in self.tasks), "they were too fast to be disturbed"

    async def outputs(self) -> list[Output]:
        async with asyncio.timeout(60):
            return await asyncio.gather(*self.tasks)

    async def _run(self, index: int) -> Output:
        reason = ""
        async for text, end in getattr(self, f"_{WAYS[index % 3]}")(index):
            self.texts[index].append(text)
            reason = end or reason
        return "".join(self.texts[index]), reason

    async def _generate(self, index: int) -> AsyncIterator[Output]:
        request = pb.GenerateRequest(
            prompt=as_prompt(prompt(index)), sampling=pb.SamplingParams(**sampling(index))
        )
        async for response in self.door.inference.Generate(request):
            yield response.delta.text, "length" if response.delta.finish_reason else ""

    async def _session(self, index: int) -> AsyncIterator[Output]:
        submit = pb.Submit(prompt=as_prompt(prompt(index)), sampling=pb.SamplingParams(**sampling(index)))
        async for event in self.session.submit(submit):
            assert event.WhichOneof("event") in ("accepted", "delta"), event
            if event.WhichOneof("event") == "delta":
                yield event.delta.text, "length" if event.delta.finish_reason else ""

    async def _http(self, index: int) -> AsyncIterator[Output]:
        client = openai.AsyncOpenAI(base_url=f"{self.door.http}/v1", api_key="none", max_retries=0)
        asked = sampling(index)
        own = {name: asked.pop(name) for name in ("ignore_eos", "repetition_penalty")}
        async with client:
            stream = await client.completions.create(
                model="tiny", prompt=prompt(index), stream=True, extra_body=own, **asked
            )
            async for chunk in stream:
                yield chunk.choices[0].text, chunk.choices[0].finish_reason or ""


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, list[Output]]:
    """What the streams are when nothing happens; filled by the first test."""
    return {}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM], ids=lambda n: n.name)
async def test_a_lost_pod_costs_no_request_and_no_token(
    fleet: list[PodProcess], undisturbed: dict[str, list[Output]], number: signal.Signals
) -> None:
    async with gateway([pod.address for pod in fleet]) as door:
        await until_serving(door, 3)
        if "all" not in undisturbed:
            undisturbed["all"] = await Streams(door).outputs()
            assert all(reason == "length" for _, reason in undisturbed["all"])
        streams = Streams(door)
        await streams.under_way()
        fleet[0].send(number)
        assert await streams.outputs() == undisturbed["all"]
        for pod in fleet[1:]:
            await pod.until_idle()
        if number is signal.SIGTERM:
            fleet[0].end()


async def test_a_pod_that_wakes_up_again_drops_what_went_elsewhere(fleet: list[PodProcess]) -> None:
    async with gateway([pod.address for pod in fleet[:2]]) as door:
        await until_serving(door, 2)
        streams = Streams(door)
        await streams.under_way()
        fleet[0].send(signal.SIGSTOP)
        await streams.outputs()
        fleet[0].send(signal.SIGCONT)
        await fleet[0].until_idle()
        await until_serving(door, 2)


async def test_a_pod_that_comes_back_is_used_again(fleet: list[PodProcess]) -> None:
    async with gateway([fleet[0].address]) as door:
        await until_serving(door, 1)
        fleet[0].end()
        await until_serving(door, 0)
        fleet[0].start()
        await until_serving(door, 1)
        request = pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=pb.SamplingParams(max_tokens=4))
        assert [response async for response in door.inference.Generate(request)]


async def test_without_any_pod_the_client_is_told_when_to_come_again(fleet: list[PodProcess]) -> None:
    nobody = PodProcess(fleet[0]._model).address
    async with gateway([nobody], patience=0.5, wake_patience=0.5) as door:
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await door.inference.Generate(pb.GenerateRequest(prompt=as_prompt("Hello"))).read()
        assert 0.4 < time.monotonic() - began < 3
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        details = dict(refused.value.trailing_metadata() or ())["grpc-status-details-bin"]
        retry = RetryInfo()
        assert Status.FromString(details).details[0].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() > 0

        client = openai.AsyncOpenAI(base_url=f"{door.http}/v1", api_key="none", max_retries=0)
        async with client:
            with pytest.raises(openai.InternalServerError) as unavailable:
                await client.completions.create(model="tiny", prompt="Hello")
        assert unavailable.value.status_code == 503
        assert int(unavailable.value.response.headers["retry-after"]) >= 1


async def test_a_request_waits_for_a_pod_that_is_on_its_way(fleet: list[PodProcess]) -> None:
    fleet[2].end()
    async with gateway([fleet[2].address], patience=60, wake_patience=60) as door:
        request = pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=pb.SamplingParams(max_tokens=4))
        call = door.inference.Generate(request)
        waiting = asyncio.ensure_future(call.read())
        await until(door, lambda model: model.waiting == 1)
        fleet[2].start()
        assert (await waiting).delta.token_ids
