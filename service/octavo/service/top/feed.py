"""Snapshots from a server, for as long as one wants them: whatever it is, and whatever happens to it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.duration_pb2 import Duration

from octavo.service.client import error_of_call
from octavo.service.failures import ServerError
from octavo.service.top.snapshot import Snapshot, of_gateway, of_pod
from octavo.v1 import engine_pb2, gateway_pb2, inference_pb2
from octavo.v1.engine_pb2_grpc import EngineStub
from octavo.v1.gateway_pb2_grpc import GatewayStub
from octavo.v1.inference_pb2_grpc import InferenceStub

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

PATIENCE = 5.0
"""Seconds to wait for a server's first answer, and beyond an interval for each further one."""
PAUSE = 1.0
"""Seconds between two attempts to reach a server."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """No snapshot, and why."""

    message: str


async def watch(servers: Sequence[str], interval: float) -> AsyncGenerator[Snapshot | Trouble]:
    """Snapshots every `interval` seconds of the first of `servers` that answers; trouble whenever none does.

    Never ends: a server that is gone is looked for again, the others too.
    """
    while True:
        failures: list[str] = []
        for server in servers:
            try:
                async for snapshot in snapshots(server, interval):
                    failures.clear()
                    yield snapshot
                failures.append(f"{server}: has ended")
            except ServerError as error:
                failures.append(f"{server}: {error}")
        yield Trouble("; ".join(failures))
        await asyncio.sleep(PAUSE)


async def first(servers: Sequence[str]) -> Snapshot:
    """One snapshot of the first of `servers` that answers. ServerError if none does."""
    failures: list[tuple[str, ServerError]] = []
    for server in servers:
        try:
            async with aclosing(snapshots(server, PATIENCE)) as told:
                return await anext(told)
        except StopAsyncIteration:
            failures.append((server, ServerError("UNAVAILABLE", "has ended")))
        except ServerError as error:
            failures.append((server, error))
    if len(failures) == 1:
        raise failures[0][1]
    raise ServerError("UNAVAILABLE", "; ".join(f"{server}: {error}" for server, error in failures))


async def snapshots(server: str, interval: float) -> AsyncGenerator[Snapshot]:
    """What the server tells, a gateway or a pod, until it ends. ServerError if it fails or falls silent."""
    every = Duration()
    every.FromNanoseconds(round(interval * 1e9))
    async with grpc.aio.insecure_channel(server) as channel:
        try:
            async for pods in _messages(
                GatewayStub(channel).WatchPods(gateway_pb2.WatchPodsRequest(interval=every)), interval
            ):
                yield of_gateway(server, pods)
            return
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise error_of_call(error) from None
        try:
            stub: Any = InferenceStub(channel)
            answer = await stub.GetModel(inference_pb2.GetModelRequest(), timeout=PATIENCE)
            async for told in _messages(
                EngineStub(channel).WatchLoad(engine_pb2.WatchLoadRequest(interval=every)), interval
            ):
                yield of_pod(server, answer.model.name, told.load)
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from None


async def _messages(call: Any, interval: float) -> AsyncGenerator[Any]:
    try:
        while True:
            async with asyncio.timeout(interval + PATIENCE):
                message = await call.read()
            if message is grpc.aio.EOF:
                return
            yield message
    except TimeoutError:
        raise ServerError("DEADLINE_EXCEEDED", f"nothing heard for {interval + PATIENCE:g} s") from None
    finally:
        call.cancel()
