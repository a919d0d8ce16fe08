"""A pod is lost under requests for several outputs: each output is what it would have been."""

from __future__ import annotations

import asyncio
import signal
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import openai
import pytest

from octavo.v1 import inference_pb2 as pb
from tests.gateway.processes import Gateway, PodProcess, gateway, until_serving
from tests.service.conftest import as_prompt

PROMPT = "Pages of keys and values are shared between sequences that start alike."
TOLD_AT_THE_END = {"the best": {"n": 2, "best_of": 4, "seed": 6}, "beams": {"n": 2, "beam_width": 4}}
KINDS: dict[str, dict[str, Any]] = {
    "three": {"n": 3, "seed": 5, "logprobs": 1},
    "greedy": {"n": 2, "temperature": 0.0},
    "with the prompt": {"n": 2, "seed": 7, "prompt_logprobs": 1, "echo": True},
    **TOLD_AT_THE_END,
}
TOKENS = 120
Told = dict[str, list[pb.Delta]]
"""The deltas of each request."""


def sampling(kind: str) -> pb.SamplingParams:
    return pb.SamplingParams(max_tokens=TOKENS, ignore_eos=True, **KINDS[kind])


def ends(deltas: Iterable[pb.Delta]) -> int:
    return sum(bool(delta.finish_reason) for delta in deltas)


class Requests:
    """One of each kind, by calls of their own, in a session, and by HTTP."""

    def __init__(self, door: Gateway) -> None:
        self.door = door
        self.told: Told = defaultdict(list)
        self.choices: dict[int, str] = defaultdict(str)
        self._tasks = [
            *(asyncio.create_task(self._generate(kind)) for kind in KINDS),
            asyncio.create_task(self._session()),
            asyncio.create_task(self._http()),
        ]

    async def under_way(self) -> None:
        """Waits until all have told something that are to tell it while they run."""
        begin = {f"{way} {kind}" for way in ("call", "session") for kind in KINDS.keys() - TOLD_AT_THE_END}
        async with asyncio.timeout(30):
            while not (begin <= self.told.keys() and self.choices):
                await asyncio.sleep(0.005)
        assert self.told.keys() == begin, "they were too fast to be disturbed"
        assert not any(map(ends, self.told.values()))

    async def outcome(self) -> dict[str, Any]:
        async with asyncio.timeout(50):
            await asyncio.gather(*self._tasks)
        found = {name: summary(deltas) for name, deltas in self.told.items()}
        return {**found, "http": dict(self.choices)}

    async def _generate(self, kind: str) -> None:
        request = pb.GenerateRequest(prompt=as_prompt(PROMPT), sampling=sampling(kind))
        async for response in self.door.inference.Generate(request):
            self.told[f"call {kind}"].append(response.delta)

    async def _session(self) -> None:
        call = self.door.inference.Session()
        for kind in KINDS:
            submit = pb.Submit(prompt=as_prompt(PROMPT), sampling=sampling(kind))
            await call.write(pb.SessionRequest(request_id=f"session {kind}", submit=submit))
        await call.done_writing()
        async for event in call:
            assert event.WhichOneof("event") in ("accepted", "delta"), event
            if event.WhichOneof("event") == "delta":
                self.told[event.request_id].append(event.delta)

    async def _http(self) -> None:
        client = openai.AsyncOpenAI(base_url=f"{self.door.http}/v1", api_key="none", max_retries=0)
        asked: dict[str, Any] = {"max_tokens": TOKENS, "n": 2, "seed": 9, "extra_body": {"ignore_eos": True}}
        async with client:
            stream = await client.completions.create(model="tiny", prompt=PROMPT, stream=True, **asked)
            async for chunk in stream:
                for choice in chunk.choices:
                    self.choices[choice.index] += choice.text


def summary(deltas: list[pb.Delta]) -> dict[str, Any]:
    """What a request told, however it was cut into deltas."""
    outputs = {}
    for index in sorted({delta.index for delta in deltas}):
        mine = [delta for delta in deltas if delta.index == index]
        assert mine[-1].finish_reason == pb.FINISH_REASON_LENGTH
        assert ends(mine) == 1
        outputs[index] = {
            "text": "".join(delta.text for delta in mine),
            "token_ids": [token for delta in mine for token in delta.token_ids],
            "logprobs": [entry.chosen.token_id for delta in mine for entry in delta.logprobs],
            "score": round(mine[-1].score, 3),
        }
    prompts = [delta for delta in deltas if delta.prompt_logprobs]
    assert len(prompts) <= 1
    usages = [delta.usage.output_tokens for delta in deltas]
    assert usages == sorted(usages)
    return {
        "outputs": outputs,
        "prompt": [entry.chosen.token_id for delta in prompts for entry in delta.prompt_logprobs],
        "output_tokens": usages[-1],
        "prompt_tokens": deltas[-1].usage.prompt_tokens,
    }


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    """What the requests tell when nothing happens; filled by the first test."""
    return {}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda n: n.name)
async def test_no_output_of_a_lost_pod_is_lost(
    fleet: list[PodProcess], undisturbed: dict[str, Any], number: signal.Signals
) -> None:
    first, second, _ = fleet
    second.send(signal.SIGSTOP)  # so that the first one gets them all
    async with gateway([first.address, second.address]) as door:
        await until_serving(door, 1)
        undisturbed.update(undisturbed or await Requests(door).outcome())
        requests = Requests(door)
        await requests.under_way()
        first.send(number)
        second.send(signal.SIGCONT)
        outcome = await requests.outcome()
        assert outcome.keys() == undisturbed.keys()
        for name, told in outcome.items():
            assert told == undisturbed[name], name
        await second.until_idle()
