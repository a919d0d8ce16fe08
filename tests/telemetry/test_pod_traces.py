"""What a pod tells of a request: a span of its door, and below it what the engine did and when."""

from __future__ import annotations

import asyncio
import time

import grpc
import httpx2 as httpx
import pytest

from octavo.service.server.session import Session as PodSession
from octavo.v1 import inference_pb2 as pb
from tests.service.conftest import ENDLESS, GREEDY, Serving, SessionClient, World, as_prompt, chat, collect
from tests.telemetry.collector import Collector, Span, Trace
from tests.telemetry.conftest import Caller

PHASES = ["queue", "prefill", "decode"]


@pytest.fixture
async def pod(collector: Collector, serving: Serving) -> World:
    return await serving(served_name="tiny", http=True, http_port=0, port=0)


def door_of(trace: Trace, caller: Caller) -> Span:
    door = trace.below(caller.span_id)
    assert (door.service, door.kind) == ("octavo-engine", "server")
    return door


async def test_generate_is_one_trace_below_the_callers_span(
    pod: World, collector: Collector, caller: Caller
) -> None:
    before = time.time_ns()
    request = pb.GenerateRequest(model="tiny", prompt=as_prompt("The quick brown fox"), sampling=GREEDY)
    answer = await collect(pod.inference.Generate(request, metadata=caller.metadata))
    trace = await collector.trace(caller.trace_id, *PHASES, "text_completion tiny")
    door = door_of(trace, caller)
    assert door.name == "text_completion tiny"
    queue, prefill, decode = trace.children(door)
    assert [queue.name, prefill.name, decode.name] == PHASES
    assert before < door.start <= queue.start <= queue.end == prefill.start
    assert prefill.start <= prefill.end == decode.start
    assert decode.start < decode.end <= door.end < time.time_ns()
    assert decode.events == [("first_token", decode.start)]
    assert decode.attributes["gen_ai.usage.output_tokens"] == 8
    assert not any(span.failed or "error.type" in span.attributes for span in trace.spans)
    assert len(answer.token_ids) == 8


async def test_a_doors_span_has_what_was_asked_and_what_came(
    pod: World, collector: Collector, caller: Caller
) -> None:
    sampling = pb.SamplingParams(
        max_tokens=4,
        temperature=0.5,
        top_k=7,
        top_p=0.9,
        min_p=0.01,
        seed=2**64 - 1,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        stop=["\n\n", "END"],
        ignore_eos=True,
    )
    request = pb.GenerateRequest(model="tiny", prompt=chat("Hello"), sampling=sampling)
    answer = await collect(pod.inference.Generate(request, metadata=caller.metadata))
    trace = await collector.trace(caller.trace_id, "chat tiny")
    attributes = door_of(trace, caller).attributes
    assert attributes.pop("client.address") == "127.0.0.1"
    assert attributes.pop("client.port") > 0
    assert attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": "octavo.v1.Inference/Generate",
        "rpc.response.status_code": "OK",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "octavo",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_k": 7,
        "gen_ai.request.top_p": 0.9,
        "octavo.request.min_p": 0.01,
        "gen_ai.request.seed": "18446744073709551615",
        "gen_ai.request.frequency_penalty": 0.5,
        "gen_ai.request.presence_penalty": -0.5,
        "gen_ai.request.stop_sequences": ["\n\n", "END"],
        "octavo.request.ignore_eos": True,
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": answer.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 0,
    }


async def test_http_is_traced_alike(pod: World, collector: Collector, caller: Caller) -> None:
    message = {"role": "user", "content": "Hello"}
    body = {"model": "tiny", "messages": [message], "max_tokens": 4, "ignore_eos": True}
    async with httpx.AsyncClient(base_url=pod.server.http_url) as http:
        answer = await http.post("/v1/chat/completions", json=body, headers=caller.headers)
    assert answer.status_code == 200
    trace = await collector.trace(caller.trace_id, *PHASES, "chat tiny")
    door = door_of(trace, caller)
    assert [span.name for span in trace.children(door)] == PHASES
    assert door.attributes["http.request.method"] == "POST"
    assert door.attributes["http.route"] == "/v1/chat/completions"
    assert door.attributes["http.response.status_code"] == 200
    assert door.attributes["gen_ai.response.id"] == answer.json()["id"]
    assert door.attributes["gen_ai.usage.output_tokens"] == 4
    assert door.attributes["server.address"] == "127.0.0.1"


async def test_a_streamed_answer_ends_its_span_with_its_last_event(
    pod: World, collector: Collector, caller: Caller
) -> None:
    body = {"model": "tiny", "prompt": "Hello", "max_tokens": 8, "stream": True}
    async with (
        httpx.AsyncClient(base_url=pod.server.http_url) as http,
        http.stream("POST", "/v1/completions", json=body, headers=caller.headers) as answer,
    ):
        lines = [line async for line in answer.aiter_lines()]
    assert lines[-2] == "data: [DONE]"
    trace = await collector.trace(caller.trace_id, *PHASES, "text_completion tiny")
    door = door_of(trace, caller)
    assert door.end >= trace.children(door)[-1].end
    assert "error.type" not in door.attributes


async def test_several_outputs_of_one_request_are_told_together(
    pod: World, collector: Collector, caller: Caller
) -> None:
    body = {"model": "tiny", "prompt": ["Hello", "Goodbye"], "max_tokens": 3, "ignore_eos": True}
    async with httpx.AsyncClient(base_url=pod.server.http_url) as http:
        answer = await http.post("/v1/completions", json=body, headers=caller.headers)
    assert answer.status_code == 200, answer.text
    trace = await collector.trace(caller.trace_id, "text_completion tiny")
    door = door_of(trace, caller)
    assert sorted(span.name for span in trace.children(door)) == sorted(PHASES * 2)
    assert door.attributes["gen_ai.response.finish_reasons"] == ["length", "length"]
    assert door.attributes["gen_ai.usage.output_tokens"] == 6


async def test_each_request_of_a_session_has_its_own_parent(pod: World, collector: Collector) -> None:
    stream, first, second = Caller(), Caller(), Caller()
    session = SessionClient(pod.inference.Session(metadata=stream.metadata))
    submit = pb.Submit(prompt=as_prompt("Hello"), sampling=GREEDY, hold=True)
    await session.send("a", submit=submit, traceparent=first.traceparent)
    await session.answer("a")
    follow = pb.Continue(from_request_id="a", prompt=as_prompt("and on"), sampling=GREEDY)
    await session.send("b", continuation=follow, traceparent=second.traceparent)
    await session.answer("b")
    await session.submit("c", "Hello again")
    await session.answer("c")
    for name, caller in (("a", first), ("b", second), ("c", stream)):
        trace = await collector.trace(caller.trace_id, *PHASES, "text_completion tiny")
        door = door_of(trace, caller)
        assert door.attributes["octavo.request_id"] == name
        assert door.attributes["rpc.method"] == "octavo.v1.Inference/Session"
        assert [span.name for span in trace.children(door)] == PHASES
    session.call.cancel()


async def test_a_refused_request_says_so(pod: World, collector: Collector, caller: Caller) -> None:
    request = pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=pb.SamplingParams(top_p=2))
    with pytest.raises(grpc.aio.AioRpcError):
        await collect(pod.inference.Generate(request, metadata=caller.metadata))
    door = door_of(await collector.trace(caller.trace_id, "text_completion tiny"), caller)
    assert door.attributes["error.type"] == "INVALID_ARGUMENT"
    assert door.attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert not door.failed  # it is the client's mistake


async def test_a_message_that_cannot_be_read_is_a_span_too(
    pod: World, collector: Collector, caller: Caller
) -> None:
    generate = pod.channel.unary_stream("/octavo.v1.Inference/Generate")
    with pytest.raises(grpc.aio.AioRpcError):
        await generate(b"\xff\xff", metadata=caller.metadata).read()
    door = door_of(await collector.trace(caller.trace_id, "octavo.v1.Inference/Generate"), caller)
    assert door.attributes["error.type"] == "INVALID_ARGUMENT"


async def test_a_refused_command_says_so(pod: World, collector: Collector, caller: Caller) -> None:
    session = pod.session()
    submit = pb.Submit(model="another", prompt=as_prompt("Hello"))
    await session.send("a", submit=submit, traceparent=caller.traceparent)
    await session.rejection("a")
    door = door_of(await collector.trace(caller.trace_id, "octavo.v1.Inference/Session"), caller)
    assert door.attributes["error.type"] == "NOT_FOUND"
    session.call.cancel()


async def test_a_bad_http_request_says_so(pod: World, collector: Collector, caller: Caller) -> None:
    async with httpx.AsyncClient(base_url=pod.server.http_url) as http:
        await http.post("/v1/completions", json={"prompts": "Hello"}, headers=caller.headers)
    door = door_of(await collector.trace(caller.trace_id, "POST /v1/completions"), caller)
    assert door.attributes["http.response.status_code"] == 400
    assert door.attributes["error.type"] == "400"
    assert not door.failed


async def test_a_client_that_vanishes_ends_its_spans(
    pod: World, collector: Collector, caller: Caller
) -> None:
    request = pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=ENDLESS)
    call = pod.inference.Generate(request, metadata=caller.metadata)
    await call.read()
    call.cancel()
    trace = await collector.trace(caller.trace_id, "decode", "text_completion tiny")
    door = door_of(trace, caller)
    decode = trace.children(door)[-1]
    assert door.attributes["error.type"] == decode.attributes["error.type"] == "CANCELLED"
    assert door.attributes["gen_ai.response.finish_reasons"] == ["cancelled"]
    assert door.attributes["rpc.response.status_code"] == "CANCELLED"


async def test_an_http_client_that_vanishes_ends_its_spans(
    pod: World, collector: Collector, caller: Caller
) -> None:
    body = {"model": "tiny", "prompt": "Hello", "ignore_eos": True, "max_tokens": 4000, "stream": True}
    async with (
        httpx.AsyncClient(base_url=pod.server.http_url) as http,
        http.stream("POST", "/v1/completions", json=body, headers=caller.headers) as answer,
    ):
        await anext(answer.aiter_lines())
    trace = await collector.trace(caller.trace_id, "decode", "text_completion tiny")
    door = door_of(trace, caller)
    assert door.attributes["error.type"] == "CANCELLED"
    assert trace.children(door)[-1].attributes["error.type"] == "CANCELLED"


async def test_a_session_that_breaks_ends_the_spans_of_its_requests(
    pod: World, collector: Collector, caller: Caller
) -> None:
    session = pod.session()
    submit = pb.Submit(prompt=as_prompt("Hello"), sampling=ENDLESS)
    await session.send("a", submit=submit, traceparent=caller.traceparent)
    assert (await session.next_event("a")).HasField("accepted")
    assert (await session.next_event("a")).HasField("delta")
    session.call.cancel()
    trace = await collector.trace(caller.trace_id, "decode", "text_completion tiny")
    assert door_of(trace, caller).attributes["error.type"] == "CANCELLED"


async def test_who_leaves_with_the_last_delta_has_not_cancelled(
    pod: World, collector: Collector, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = PodSession._send

    async def send_late(self: PodSession, response: pb.SessionResponse) -> None:
        await send(self, response)
        if response.delta.finish_reason:
            await asyncio.Event().wait()  # as gRPC may return from a write after the client has read it

    monkeypatch.setattr(PodSession, "_send", send_late)
    session = pod.session()
    submit = pb.Submit(prompt=as_prompt("Hello"), sampling=GREEDY)
    await session.send("a", submit=submit, traceparent=caller.traceparent)
    await session.answer("a")
    session.call.cancel()
    trace = await collector.trace(caller.trace_id, "decode", "text_completion tiny")
    assert "error.type" not in door_of(trace, caller).attributes


async def test_a_cancelled_request_of_a_session_says_so(
    pod: World, collector: Collector, caller: Caller
) -> None:
    session = pod.session()
    submit = pb.Submit(prompt=as_prompt("Hello"), sampling=ENDLESS)
    await session.send("a", submit=submit, traceparent=caller.traceparent)
    await session.next_event("a")
    await session.cancel("a")
    trace = await collector.trace(caller.trace_id, "queue", "text_completion tiny")
    door = door_of(trace, caller)
    assert door.attributes["gen_ai.response.finish_reasons"] == ["cancelled"]
    assert door.attributes["error.type"] == "CANCELLED"
    session.call.cancel()
