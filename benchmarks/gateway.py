"""What a gateway costs: CPU time per streamed token, and time added to the first token.

    python benchmarks/gateway.py [--streams 64] [--rate 50] [--seconds 10]

A pod that computes nothing sends tokens at a given rate to many streams, through a gateway that is a process
of its own. Its CPU time is the kernel's count for that process; the times to the first token of single
requests are taken in turn from the pod itself and through the gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import httpx2
from opentelemetry.trace import NoOpTracer
from rich.console import Console
from rich.table import Table

from octavo.service.openai.app import create_app
from octavo.service.openai.server import HTTPServer
from octavo.service.rpc.boundary import Boundary, shared_writer
from octavo.service.rpc.listening import options
from octavo.service.server.inference import Inference
from octavo.service.server.relay import Relay
from octavo.service.telemetry.http import TracedRequests
from octavo.service.telemetry.rpc import RelayDoor, TracedCalls
from octavo.v1 import engine_pb2
from octavo.v1 import inference_pb2 as pb
from octavo.v1.engine_pb2_grpc import EngineServicer, add_EngineServicer_to_server
from octavo.v1.inference_pb2_grpc import InferenceStub, add_InferenceServicer_to_server

if TYPE_CHECKING:
    from octavo.service.backend import Origin

MODEL = "idle"
PROMPT = "Why is the sky blue?"
WARM_UP, REQUESTS = 20, 300
"""By each way, for the time to the first token."""
MAX_MESSAGE_SIZE = 4 * 1024 * 1024


class IdlePod(EngineServicer):
    """Brings a token to each stream at each step, as an engine does, and the first one at once.

    Its doors are those of a real pod, so that a request that comes to it straight pays for them too.
    """

    def __init__(self, rate: float) -> None:
        self.pause = 1 / rate
        self.step = asyncio.Event()
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        due = time.monotonic()
        while True:
            due += self.pause
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            step, self.step = self.step, asyncio.Event()
            step.set()

    async def generate(self, request: pb.GenerateRequest, origin: Origin) -> AsyncGenerator[pb.Delta]:
        count = request.sampling.max_tokens
        for number in range(1, count + 1):
            delta = pb.Delta(
                text=" word", token_ids=[number], usage=pb.Usage(prompt_tokens=8, output_tokens=number)
            )
            if number == count:
                delta.finish_reason = pb.FINISH_REASON_LENGTH
            yield delta
            if number < count:
                await self.step.wait()

    async def model(self, name: str) -> pb.Model:
        return pb.Model(name=MODEL, block_size=16, max_model_len=4096)

    async def Relay(self, commands: Any, context: Any) -> None:
        backend: Any = self
        relay = Relay(backend, await shared_writer(context), RelayDoor(NoOpTracer(), context))
        await relay.run(commands, self.stopped)

    async def WatchLoad(self, request: engine_pb2.WatchLoadRequest, context: Any) -> None:
        while True:
            load = engine_pb2.Load(total_blocks=1000, max_num_seqs=64)
            await context.write(engine_pb2.WatchLoadResponse(load=load))
            await asyncio.sleep(request.interval.ToTimedelta().total_seconds())


async def no_metrics() -> bytes:
    return b""


def serve_pod(rate: float, ports: Any) -> None:
    async def serve() -> None:
        tracer = NoOpTracer()
        server = grpc.aio.server(
            interceptors=[TracedCalls(tracer), Boundary()], options=options(MAX_MESSAGE_SIZE)
        )
        pod = IdlePod(rate)
        backend: Any = pod
        add_InferenceServicer_to_server(Inference(backend, pod.stopped), server)
        add_EngineServicer_to_server(pod, server)
        http = HTTPServer("127.0.0.1", 0)
        app = create_app(backend, metrics=no_metrics, health=lambda: None)
        await http.start(TracedRequests(app, tracer))
        ports.send((server.add_insecure_port("127.0.0.1:0"), http.port))
        await server.start()
        stepping = asyncio.create_task(pod.run())
        await server.wait_for_termination()
        stepping.cancel()

    asyncio.run(serve())


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    with Path(f"/proc/{pid}/stat").open() as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


Tokens = AsyncIterator[None]
Door = Callable[[int], Tokens]


def grpc_door(channel: grpc.aio.Channel) -> Door:
    async def generate(count: int) -> Tokens:
        sampling = pb.SamplingParams(max_tokens=count)
        request = pb.GenerateRequest(prompt=pb.Prompt(text=PROMPT), sampling=sampling)
        async for _ in InferenceStub(channel).Generate(request):
            yield

    return generate


def http_door(client: httpx2.AsyncClient) -> Door:
    async def generate(count: int) -> Tokens:
        body = {"model": MODEL, "prompt": PROMPT, "max_tokens": count, "stream": True}
        async with client.stream("POST", "/v1/completions", json=body, timeout=120) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    yield

    return generate


async def drain(tokens: Tokens) -> int:
    return sum([1 async for _ in tokens])


async def first_token(door: Door) -> float:
    began = time.perf_counter()
    tokens = door(1)
    async for _ in tokens:
        took = time.perf_counter() - began
    return took


async def first_tokens(doors: Sequence[Door]) -> dict[Door, float]:
    """The median time to the first token by each door, in ms; they are asked in turn."""
    times: dict[Door, list[float]] = {door: [] for door in doors}
    for number in range(WARM_UP + REQUESTS):
        for door, found in times.items():
            took = await first_token(door)
            if number >= WARM_UP:
                found.append(1000 * took)
    return {door: statistics.median(found) for door, found in times.items()}


async def per_token(door: Door, pid: int, streams: int, count: int) -> tuple[float, float]:
    """CPU time of the gateway per token, in ms, and its share of a core."""
    began, before = time.monotonic(), cpu_seconds(pid)
    counts = await asyncio.gather(*(drain(door(count)) for _ in range(streams)))
    used, wall = cpu_seconds(pid) - before, time.monotonic() - began
    return 1000 * used / sum(counts), used / wall


async def measure(
    pod: tuple[int, int], gateway: str, url: str, pid: int, arguments: argparse.Namespace
) -> Table:
    count = int(arguments.rate * arguments.seconds)
    table = Table(title=f"{arguments.streams} streams of {arguments.rate:g} tokens/s, one gateway process")
    for heading in (
        "door",
        "CPU per token",
        "of a core",
        "first token, direct",
        "through the gateway",
        "added",
    ):
        table.add_column(heading, justify="left" if heading == "door" else "right")
    async with (
        grpc.aio.insecure_channel(gateway) as channel,
        httpx2.AsyncClient(base_url=url, limits=httpx2.Limits(max_connections=None)) as client,
    ):
        costs = {}
        for name, door in (("gRPC", grpc_door(channel)), ("HTTP", http_door(client))):
            await drain(door(10))
            costs[name] = await per_token(door, pid, arguments.streams, count)
    # New clients, the same ones for both ways: a pool of 64 connections looks at each of them first.
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{pod[0]}") as direct_channel,
        grpc.aio.insecure_channel(gateway) as channel,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{pod[1]}") as direct_client,
        httpx2.AsyncClient(base_url=url) as client,
    ):
        ways = {
            "gRPC": (grpc_door(direct_channel), grpc_door(channel)),
            "HTTP": (http_door(direct_client), http_door(client)),
        }
        times = await first_tokens([door for doors in ways.values() for door in doors])
    for name, doors in ways.items():
        cost, share = costs[name]
        without, through = (times[door] for door in doors)
        row = (f"{cost:.3f} ms", f"{share:.0%}", *(f"{each:.2f} ms" for each in (without, through)))
        table.add_row(name, *row, f"{through - without:.2f} ms")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--rate", type=float, default=50.0, help="tokens per second of each stream")
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    pod = multiprocessing.get_context("spawn").Process(
        target=serve_pod, args=(arguments.rate, theirs), daemon=True
    )
    pod.start()
    ports = ours.recv()
    command = [sys.executable, "-m", "octavo.service.cli", "gateway", "--port", "0", "--http-port", "0"]
    gateway = subprocess.Popen(
        [*command, "--pods", f"{MODEL}=127.0.0.1:{ports[0]}"], stderr=subprocess.PIPE, text=True
    )
    assert gateway.stderr is not None
    try:
        found = None
        while found is None:
            found = re.search(r"gateway on (\S+) and (http://[\d.:]+)", gateway.stderr.readline())
        Console().print(asyncio.run(measure(ports, found[1], found[2], gateway.pid, arguments)))
    finally:
        gateway.kill()
        pod.kill()


if __name__ == "__main__":
    main()
