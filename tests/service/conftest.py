"""A real server on a real port, a real engine on a tiny model, and a client that reads like the protocol."""

from __future__ import annotations

import asyncio
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status as RpcStatus
from tokenizers import Tokenizer

from octavo.engine import EngineConfig
from octavo.engine.async_engine import AsyncEngine
from octavo.service.config import ServerConfig
from octavo.service.server.server import Server
from octavo.v1 import engine_pb2, inference_pb2
from octavo.v1.engine_pb2_grpc import EngineStub
from octavo.v1.inference_pb2_grpc import InferenceStub

if TYPE_CHECKING:
    from octavo.engine.info import EngineLoad
    from tests.conftest import TinyModel

GREEDY = inference_pb2.SamplingParams(temperature=0, ignore_eos=True, max_tokens=8)
ENDLESS = inference_pb2.SamplingParams(temperature=0, ignore_eos=True)
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16384)]
"""A client that takes 16 KiB unread, where gRPC's default grows to megabytes on a fast network."""

ONE_SEAT: Any = {"max_num_seqs": 1, "stream_buffer": 32768}
"""Settings of an engine whose only seat an endless request keeps, even if nobody reads it.

By default it would pause 64 tokens later, and the next in the queue take its seat: that is 30 ms, as long as
a busy machine may stop the loop that reads.
"""


@dataclass(frozen=True)
class World:
    """A server, the engine behind it, and stubs on a channel to it."""

    engine: AsyncEngine
    server: Server
    channel: grpc.aio.Channel
    inference: Any
    cluster: Any

    @property
    def address(self) -> str:
        return self.server.address

    async def load(self) -> engine_pb2.Load:
        call = self.cluster.WatchLoad(engine_pb2.WatchLoadRequest())
        response = await call.read()
        call.cancel()
        return response.load

    async def until_idle(self, seconds: float = 2.0) -> None:
        """Waits until no block is held and nothing runs or waits."""
        await self.until(lambda load: not (load.held_blocks or load.running or load.waiting), seconds)

    async def until_running(self, seconds: float = 5.0) -> None:
        await self.until(lambda load: load.running > 0, seconds)

    async def until(self, holds: Callable[[EngineLoad], bool], seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while not holds(self.engine.load()):
                await asyncio.sleep(0.005)

    def session(self) -> SessionClient:
        return SessionClient(self.inference.Session())


Serving = Callable[..., Awaitable[World]]


def small_engine(model: str | Path, **settings: Any) -> EngineConfig:
    return EngineConfig(model=str(model), **({"kv_cache_memory": "32Mi", "threads": 1} | settings))


@pytest.fixture
async def serving(tiny_model: TinyModel) -> AsyncIterator[Serving]:
    """Starts a server for a tiny Llama of some context; keywords are settings of engine and server.

    What is ENDLESS ends with the context, as late as no test waits for it on a busy machine.
    """
    async with AsyncExitStack() as stack:

        async def start(context: int = 32768, **settings: Any) -> World:
            of_server = {
                name: settings.pop(name) for name in list(settings) if name in ServerConfig.__slots__
            }
            model = settings.pop("model", None) or tiny_model("llama", max_position_embeddings=context)
            server = Server(ServerConfig(**of_server), "127.0.0.1:0")
            engine = AsyncEngine.load_model(small_engine(model, **settings))
            await server.start(engine)
            stack.push_async_callback(server.stop)
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address))
            return World(engine, server, channel, InferenceStub(channel), EngineStub(channel))

        yield start


@pytest.fixture(scope="session")
def thinking_model(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose vocabulary has the tags that thoughts stand between."""
    folder = tmp_path_factory.mktemp("thinking") / "model"
    shutil.copytree(tiny_model("llama"), folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
async def world(serving: Serving) -> World:
    return await serving()


class SessionClient:
    """The client's side of a Session: sends commands, and keeps each request's events apart."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.events: dict[str, list[inference_pb2.SessionResponse]] = defaultdict(list)

    async def submit(self, name: str, prompt: str | inference_pb2.Prompt, **fields: Any) -> None:
        fields.setdefault("sampling", GREEDY)
        submit = inference_pb2.Submit(prompt=as_prompt(prompt), **fields)
        await self.send(name, submit=submit)

    async def continue_from(
        self, parent: str, name: str, prompt: str | inference_pb2.Prompt, **fields: Any
    ) -> None:
        fields.setdefault("sampling", GREEDY)
        continuation = inference_pb2.Continue(from_request_id=parent, prompt=as_prompt(prompt), **fields)
        await self.send(name, continuation=continuation)

    async def cancel(self, name: str) -> None:
        await self.send(name, cancel=inference_pb2.Cancel())

    async def send(self, name: str, **command: Any) -> None:
        await self.call.write(inference_pb2.SessionRequest(request_id=name, **command))

    async def next_event(self, name: str) -> inference_pb2.SessionResponse:
        """The next event of one request; those of others are kept for later."""
        async with asyncio.timeout(20):
            while not self.events[name]:
                response = await self.call.read()
                assert response is not grpc.aio.EOF, "the session has ended"
                self.events[response.request_id].append(response)
            return self.events[name].pop(0)

    async def answer(self, name: str) -> Answer:
        """Everything up to the end of a request, which must have been accepted."""
        first = await self.next_event(name)
        assert first.WhichOneof("event") == "accepted", first
        deltas = []
        while not deltas or not deltas[-1].finish_reason:
            event = await self.next_event(name)
            assert event.WhichOneof("event") == "delta", event
            deltas.append(event.delta)
        return Answer(deltas)

    async def rejection(self, name: str) -> Refusal:
        event = await self.next_event(name)
        assert event.WhichOneof("event") == "rejected", event
        return refusal(event.rejected)


@dataclass(frozen=True)
class Answer:
    """The deltas of a finished request."""

    deltas: list[inference_pb2.Delta]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def token_ids(self) -> list[int]:
        return [token for delta in self.deltas for token in delta.token_ids]

    @property
    def finish_reason(self) -> int:
        return self.deltas[-1].finish_reason

    @property
    def usage(self) -> inference_pb2.Usage:
        return self.deltas[-1].usage


async def collect(call: Any) -> Answer:
    """The rest of a Generate call."""
    deltas = []
    while (response := await call.read()) is not grpc.aio.EOF:
        deltas.append(response.delta)
    return Answer(deltas)


def as_prompt(prompt: str | inference_pb2.Prompt) -> inference_pb2.Prompt:
    return inference_pb2.Prompt(text=prompt) if isinstance(prompt, str) else prompt


def chat(*contents: str) -> inference_pb2.Prompt:
    """A chat in which the user begins and the two take turns."""
    roles = ("user", "assistant")
    messages = [
        inference_pb2.ChatMessage(role=roles[i % 2], content=content) for i, content in enumerate(contents)
    ]
    return inference_pb2.Prompt(chat=inference_pb2.Chat(messages=messages))


@dataclass(frozen=True)
class Refusal:
    """A status other than OK: its code's name, and (field, description) of each BadRequest violation."""

    code: str
    message: str
    violations: list[tuple[str, str]]


def refusal(status: inference_pb2.Status | RpcStatus) -> Refusal:
    bad = BadRequest()
    violations = [
        (violation.field, violation.description)
        for detail in status.details
        if detail.Unpack(bad)
        for violation in bad.field_violations
    ]
    return Refusal(code_pb2.Code.Name(status.code), status.message, violations)


async def refused(call: Any) -> Refusal:
    """How the server refuses a call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if hasattr(call, "read") else call)
    details = dict(caught.value.trailing_metadata() or ())
    status = RpcStatus.FromString(details["grpc-status-details-bin"])
    assert code_pb2.Code.Name(status.code) == caught.value.code().name
    return refusal(status)
