"""Streams under way through the gateway, by every door, and what became of each."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import openai

from octavo.v1 import gateway_pb2
from octavo.v1 import inference_pb2 as pb
from octavo.v1.gateway_pb2_grpc import GatewayStub
from octavo.v1.inference_pb2_grpc import InferenceStub
from tests.session import Session

SUBJECTS = (
    "the sea",
    "a clock",
    "bread",
    "the moon",
    "a violin",
    "winter",
    "a library",
    "rain",
    "salt",
    "a map",
)
OPENINGS = (
    "Once upon a time",
    "Everybody knows that",
    "The history of",
    "A short note on",
    "Nobody expected",
    "How to",
)
PROMPTS = tuple(f"{opening}: {subject}" for opening, subject in itertools.product(OPENINGS, SUBJECTS))


@dataclass
class Stream:
    """One greedy request: its text so far, and how it ended."""

    prompt: str
    door: str
    gateway: str = ""
    pieces: list[str] = field(default_factory=list)
    finished: bool = False
    error: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass
class Traffic:
    """Streams that run as tasks; leave the context and they are done or cancelled."""

    streams: list[Stream]
    tasks: list[asyncio.Task[None]]

    async def under_way(self, pieces: int = 3, seconds: float = 120) -> None:
        """Waits until every stream has begun and none could have ended."""
        async with asyncio.timeout(seconds):
            while not all(len(stream.pieces) >= pieces or stream.error for stream in self.streams):
                await asyncio.sleep(0.02)

    async def ended(self, seconds: float = 240) -> list[Stream]:
        async with asyncio.timeout(seconds):
            await asyncio.gather(*self.tasks)
        return self.streams

    @property
    def texts(self) -> dict[str, str]:
        return {stream.prompt: stream.text for stream in self.streams}

    @property
    def failures(self) -> list[str]:
        return [f"{s.door} via {s.gateway}: {s.error}" for s in self.streams if s.error or not s.finished]


class Doors:
    """Clients of one model at a gateway's address. Each channel is a connection of its own.

    grpc_address, http_address: host:port. connections: how many of each kind.
    """

    def __init__(self, grpc_address: str, http_address: str, model: str, connections: int = 6) -> None:
        self.model = model
        self._http_address = http_address
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channels = [grpc.aio.insecure_channel(grpc_address, options=options) for _ in range(connections)]
        self.gateways = [""] * connections

    async def __aenter__(self) -> Doors:
        for index, channel in enumerate(self.channels):
            watch = GatewayStub(channel).WatchPods(gateway_pb2.WatchPodsRequest())
            self.gateways[index] = (await watch.read()).gateway
            watch.cancel()
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self.channels:
            await channel.close()

    async def pods(self) -> list[gateway_pb2.Pod]:
        """The model's pods, as the gateway behind the first connection sees them."""
        watch = GatewayStub(self.channels[0]).WatchPods(gateway_pb2.WatchPodsRequest())
        answer = await watch.read()
        watch.cancel()
        return [pod for found in answer.models if found.model == self.model for pod in found.pods]

    def start(
        self, count: int, max_tokens: int, doors: tuple[str, ...] = ("generate", "session", "http")
    ) -> Traffic:
        """`count` greedy streams of `max_tokens` each, spread over doors and connections."""
        streams = [Stream(PROMPTS[index], doors[index % len(doors)]) for index in range(count)]
        self._sessions: dict[int, Session] = {}  # one for each connection, with many requests
        tasks = []
        for index, stream in enumerate(streams):
            at = (index // len(doors)) % len(self.channels)
            stream.gateway = self.gateways[at]
            chunks = getattr(self, f"_{stream.door}")(stream.prompt, max_tokens, at)
            tasks.append(asyncio.create_task(_collect(stream, chunks)))
        return Traffic(streams, tasks)

    def _request(self, prompt: str, max_tokens: int) -> dict[str, Any]:
        sampling = pb.SamplingParams(temperature=0, ignore_eos=True, max_tokens=max_tokens)
        return {"model": self.model, "prompt": pb.Prompt(text=prompt), "sampling": sampling}

    async def _generate(self, prompt: str, max_tokens: int, at: int) -> AsyncIterator[tuple[str, bool]]:
        request = pb.GenerateRequest(**self._request(prompt, max_tokens))
        async for response in InferenceStub(self.channels[at]).Generate(request):
            yield response.delta.text, bool(response.delta.finish_reason)

    async def _session(self, prompt: str, max_tokens: int, at: int) -> AsyncIterator[tuple[str, bool]]:
        session = self._sessions.setdefault(at, Session(InferenceStub(self.channels[at]).Session()))
        async for event in session.submit(pb.Submit(**self._request(prompt, max_tokens))):
            match event.WhichOneof("event"):
                case "delta":
                    yield event.delta.text, bool(event.delta.finish_reason)
                case "rejected" | "failed" as kind:
                    raise ConnectionError(f"{kind}: {getattr(event, kind).message}")

    async def _http(self, prompt: str, max_tokens: int, at: int) -> AsyncIterator[tuple[str, bool]]:
        client = openai.AsyncOpenAI(
            base_url=f"http://{self._http_address}/v1", api_key="none", max_retries=0, timeout=240
        )
        async with client:
            stream = await client.completions.create(
                model=self.model,
                prompt=prompt,
                max_tokens=max_tokens,
                temperature=0,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            async for chunk in stream:
                if chunk.choices:
                    choice = chunk.choices[0]
                    yield choice.text, choice.finish_reason is not None


async def _collect(stream: Stream, chunks: AsyncIterator[tuple[str, bool]]) -> None:
    try:
        async for text, finished in chunks:
            stream.pieces.append(text)
            stream.finished = stream.finished or finished
    except (grpc.aio.AioRpcError, openai.OpenAIError, ConnectionError, OSError) as error:
        detail = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
        stream.error = f"{type(error).__name__} after {len(stream.pieces)} pieces: {detail}"
