"""Both doors of a gateway, as its server puts them together: a trace goes through them to a pod's process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

import grpc
import httpx2 as httpx
import pytest

from octavo.service.backend import Origin
from octavo.service.gateway.directory import Directory
from octavo.service.gateway.endpoints.static import StaticSource
from octavo.service.gateway.router import Router
from octavo.service.gateway.session import Session
from octavo.service.openai.app import create_app
from octavo.service.openai.server import HTTPServer
from octavo.service.rpc.boundary import Boundary, shared_writer
from octavo.service.telemetry.http import TracedRequests
from octavo.service.telemetry.rpc import SessionDoor, TracedCalls
from octavo.service.telemetry.setup import Telemetry
from octavo.v1 import inference_pb2 as pb
from octavo.v1.inference_pb2_grpc import InferenceServicer, InferenceStub, add_InferenceServicer_to_server
from tests.conftest import TinyModel
from tests.service.conftest import GREEDY, SessionClient, as_prompt, collect
from tests.service.test_serve import served
from tests.telemetry.collector import Collector
from tests.telemetry.conftest import Caller

PHASES = [("octavo-engine", "internal", name, []) for name in ("queue", "prefill", "decode")]


class Inference(InferenceServicer):
    def __init__(self, router: Router) -> None:
        self.router = router

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> None:
        async with aclosing(self.router.generate(request, Origin())) as deltas:
            async for delta in deltas:
                await context.write(pb.GenerateResponse(delta=delta))

    async def Session(self, commands: AsyncIterator[Any], context: Any) -> None:
        door = SessionDoor(self.router.telemetry.tracer, context)
        await Session(self.router, await shared_writer(context), "", [], door).run(commands, asyncio.Event())

    async def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeResponse:
        return await self.router.tokenize(request)


@dataclass(frozen=True)
class Doors:
    inference: Any
    http: httpx.AsyncClient


@pytest.fixture
async def doors(collector: Collector, tiny_model: TinyModel) -> AsyncIterator[Doors]:
    async with AsyncExitStack() as stack:
        pod = stack.enter_context(served(str(tiny_model("llama")), "--kv-cache-memory", "4Mi"))
        directory = Directory(StaticSource([f"tiny={await asyncio.to_thread(lambda: pod.address)}"]))
        telemetry = Telemetry.start("octavo-gateway")
        router = Router(directory, telemetry=telemetry)
        await directory.start()
        stack.push_async_callback(directory.stop)
        server = grpc.aio.server(interceptors=[TracedCalls(telemetry.tracer), Boundary()])
        add_InferenceServicer_to_server(Inference(router), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, 0)
        http = HTTPServer("127.0.0.1", 0)
        app = create_app(router, metrics=telemetry.page, health=lambda: None)
        await http.start(TracedRequests(app, telemetry.tracer))
        stack.push_async_callback(http.stop, 0)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        url = f"http://{http.address}"
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30))
        yield Doors(InferenceStub(channel), client)
        await asyncio.to_thread(telemetry.close)


async def through(doors: Doors, way: str, caller: Caller) -> None:
    """One chat or text of eight tokens, by one of the doors."""
    if way == "generate":
        request = pb.GenerateRequest(model="tiny", prompt=as_prompt("Hello"), sampling=GREEDY)
        await collect(doors.inference.Generate(request, metadata=caller.metadata))
    elif way == "session":
        session = SessionClient(doors.inference.Session())
        submit = pb.Submit(model="tiny", prompt=as_prompt("Hello"), sampling=GREEDY)
        await session.send("a", submit=submit, traceparent=caller.traceparent)
        await session.answer("a")
        await session.call.done_writing()
    else:
        body = {"model": "tiny", "prompt": "Hello", "max_tokens": 8, "ignore_eos": True}
        body["stream"] = way == "http, streamed"
        answer = await doors.http.post("/v1/completions", json=body, headers=caller.headers)
        assert answer.status_code == 200


@pytest.mark.parametrize("way", ["generate", "session", "http", "http, streamed"])
async def test_one_trace_goes_from_the_client_through_gateway_pod_and_engine(
    doors: Doors, collector: Collector, caller: Caller, way: str
) -> None:
    await through(doors, way, caller)
    found = await collector.trace(caller.trace_id, "decode", "attempt", "text_completion tiny")
    door = found.below(caller.span_id)
    [pod] = [span for span in found.spans if span.service == "octavo-engine" and span.kind == "server"]
    assert found.tree(door) == (
        *("octavo-gateway", "server", "text_completion tiny"),
        [
            ("octavo-gateway", "internal", "pick", []),
            ("octavo-gateway", "client", "attempt", [("octavo-engine", "server", pod.name, PHASES)]),
        ],
    )
    assert door.attributes["gen_ai.usage.output_tokens"] == 8
    assert not any("error.type" in span.attributes for span in found.spans)
    protocol = "http.route" if way.startswith("http") else "rpc.method"
    assert protocol in door.attributes


async def test_a_question_that_any_pod_answers_is_traced_to_it(
    doors: Doors, collector: Collector, caller: Caller
) -> None:
    await doors.inference.Tokenize(pb.TokenizeRequest(text="Hello"), metadata=caller.metadata)

    def both(_: Collector) -> list[tuple[str, str]] | None:
        spans = [(s.service, s.name) for s in collector.spans if s.trace_id == caller.trace_id]
        return sorted(spans) if len(spans) == 2 else None

    name = "octavo.v1.Inference/Tokenize"
    assert await collector.until(both) == [("octavo-engine", name), ("octavo-gateway", name)]


async def test_untraced_requests_leave_no_trace_of_anybodys(
    doors: Doors, collector: Collector, caller: Caller
) -> None:
    """A client that has decided not to be sampled is followed in that, by gateway and pod."""
    unsampled = caller.traceparent[:-2] + "00"
    request = pb.GenerateRequest(model="tiny", prompt=as_prompt("Hello"), sampling=GREEDY)
    await collect(doors.inference.Generate(request, metadata=(("traceparent", unsampled),)))
    other = Caller()
    await through(doors, "generate", other)
    await collector.trace(other.trace_id, "decode", "text_completion tiny")
    assert not [span for span in collector.spans if span.trace_id == caller.trace_id]
