"""What the door gives to whatever is behind it, and makes of what comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import openai
import pytest
from opentelemetry import trace

from octavo.service.backend import Origin
from octavo.service.openai.app import create_app
from octavo.service.openai.server import HTTPServer
from octavo.service.rpc.refusals import Unavailable
from octavo.v1 import inference_pb2 as pb
from tests.service.openai.conftest import USER

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Recorder:
    """A backend that remembers what it was asked, and answers "ok" or with an error."""

    def __init__(self) -> None:
        self.origins: list[Origin] = []
        self.requests: list[pb.GenerateRequest] = []
        self.error: Exception | None = None
        self.closed = 0

    async def models(self) -> list[pb.Model]:
        return [pb.Model(name="only")]

    async def model(self, name: str) -> pb.Model:
        return pb.Model(name=name or "only")

    async def generate(self, request: pb.GenerateRequest, origin: Origin) -> AsyncGenerator[pb.Delta]:
        self.origins.append(origin)
        self.requests.append(request)
        try:
            if self.error is not None:
                raise self.error
            if request.prompt.text == "wait":
                await asyncio.Event().wait()
            yield pb.Delta(text="ok", token_ids=[1], finish_reason=pb.FINISH_REASON_EOS)
        finally:
            self.closed += 1


@pytest.fixture
async def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def client(recorder: Recorder) -> AsyncIterator[openai.AsyncOpenAI]:
    async def page() -> bytes:
        return b""

    server = HTTPServer("127.0.0.1", 0)
    app: Any = create_app(recorder, metrics=page, health=lambda: None)  # type: ignore[arg-type]
    await server.start(app)
    url = f"http://{server.address}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client
    await server.stop(1)


@pytest.mark.parametrize(
    ("headers", "body", "session"),
    [
        ({}, {}, ""),
        ({}, {"user": "ann"}, "ann"),
        ({}, {"user": "ann", "prompt_cache_key": "thread"}, "thread"),
        ({"X-Session-ID": "tab"}, {"user": "ann", "prompt_cache_key": "thread"}, "tab"),
    ],
)
async def test_the_session_key(
    client: openai.AsyncOpenAI, recorder: Recorder, headers: dict[str, str], body: Any, session: str
) -> None:
    await client.chat.completions.create(model="m", messages=USER, extra_headers=headers, **body)
    assert recorder.origins[0].session == session


async def test_the_clients_trace_goes_along(client: openai.AsyncOpenAI, recorder: Recorder) -> None:
    headers = {"traceparent": PARENT, "tracestate": "vendor=1"}
    await client.completions.create(model="m", prompt="x", extra_headers=headers)
    span = trace.get_current_span(recorder.origins[0].context).get_span_context()
    assert f"{span.trace_id:032x}-{span.span_id:016x}" == PARENT[3:-3]
    assert span.trace_state.to_header() == "vendor=1"


async def test_a_request_has_all_that_was_asked(client: openai.AsyncOpenAI, recorder: Recorder) -> None:
    extra = {"top_k": 3, "min_p": 0.25, "repetition_penalty": 1.5, "min_tokens": 2, "priority": -4}
    await client.completions.create(
        model="m",
        prompt=[1, 2],
        max_tokens=9,
        temperature=0.5,
        top_p=0.75,
        presence_penalty=1,
        frequency_penalty=-1,
        seed=-1,
        stop=["a", "b"],
        logprobs=4,
        extra_body={**extra, "stop_token_ids": [5], "ignore_eos": True},
    )
    expected = pb.GenerateRequest(
        model="m",
        prompt=pb.Prompt(token_ids=pb.TokenIds(ids=[1, 2])),
        priority=-4,
        sampling=pb.SamplingParams(
            max_tokens=9,
            min_tokens=2,
            temperature=0.5,
            top_k=3,
            top_p=0.75,
            min_p=0.25,
            seed=2**64 - 1,
            repetition_penalty=1.5,
            frequency_penalty=-1,
            presence_penalty=1,
            stop=["a", "b"],
            stop_token_ids=[5],
            ignore_eos=True,
            logprobs=4,
        ),
    )
    assert recorder.requests == [expected]


@pytest.mark.parametrize(("after", "seconds"), [(0.2, "1"), (4.2, "5")])
async def test_who_cannot_be_served_is_told_when_to_try_again(
    client: openai.AsyncOpenAI, recorder: Recorder, after: float, seconds: str
) -> None:
    recorder.error = Unavailable("no pod can serve this", retry_after=after)
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="m", messages=USER, stream=stream)
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == seconds


async def test_if_one_prompt_fails_the_others_end(client: openai.AsyncOpenAI, recorder: Recorder) -> None:
    recorder.error = None
    answering = asyncio.create_task(client.completions.create(model="m", prompt=["wait", "wait", "x"]))
    while recorder.closed < 1:
        await asyncio.sleep(0.01)
    assert not answering.done()
    answering.cancel()
    while recorder.closed < 3:
        await asyncio.sleep(0.01)


async def test_an_unsupported_request_reaches_nobody(client: openai.AsyncOpenAI, recorder: Recorder) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="m", messages=USER, store=True)
    assert caught.value.param == "store"
    assert recorder.requests == []
    message = json.loads(caught.value.response.content)["error"]["message"]
    assert message.startswith("store: is not supported yet")
