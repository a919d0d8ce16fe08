"""Servers that tell what a test gives them: a gateway, and a pod."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from octavo.v1 import engine_pb2, gateway_pb2, inference_pb2
from octavo.v1.engine_pb2_grpc import EngineServicer, add_EngineServicer_to_server
from octavo.v1.gateway_pb2_grpc import GatewayServicer, add_GatewayServicer_to_server
from octavo.v1.inference_pb2_grpc import InferenceServicer, add_InferenceServicer_to_server


def load(held: int = 50, total: int = 100, **more: Any) -> engine_pb2.Load:
    return engine_pb2.Load(
        **{"total_blocks": total, "held_blocks": held, "running": 3, "output_tokens_per_second": 41.6} | more
    )


def pod(
    address: str = "10.0.0.1:50051", state: str = "SERVING", age: float = 0.1, **more: Any
) -> gateway_pb2.Pod:
    load_age = Duration()
    load_age.FromNanoseconds(int(age * 1e9))
    return gateway_pb2.Pod(
        **{"address": address, "state": f"POD_STATE_{state}", "load": load(), "load_age": load_age} | more
    )


def pods(*found: gateway_pb2.Pod, model: str = "smollm2", waiting: int = 0) -> gateway_pb2.WatchPodsResponse:
    models = [gateway_pb2.ModelPods(model=model, pods=found, waiting=waiting)]
    return gateway_pb2.WatchPodsResponse(models=models)


class FakeGateway(GatewayServicer):
    """Tells the responses one after the other and ends the call; the last one to whoever calls again."""

    def __init__(self, responses: Sequence[gateway_pb2.WatchPodsResponse]) -> None:
        self.responses = list(responses)
        self.intervals: list[float] = []

    async def WatchPods(
        self, request: gateway_pb2.WatchPodsRequest, context: Any
    ) -> AsyncIterator[gateway_pb2.WatchPodsResponse]:
        self.intervals.append(request.interval.ToMilliseconds() / 1000)
        while len(self.responses) > 1:
            yield self.responses.pop(0)
        yield self.responses[0]


class FakePod(EngineServicer, InferenceServicer):
    def __init__(self, *loads: engine_pb2.Load) -> None:
        self.loads = loads

    async def GetModel(self, request: Any, context: Any) -> inference_pb2.GetModelResponse:
        return inference_pb2.GetModelResponse(model=inference_pb2.Model(name="tiny"))

    async def WatchLoad(self, request: Any, context: Any) -> AsyncIterator[engine_pb2.WatchLoadResponse]:
        for told in self.loads:
            yield engine_pb2.WatchLoadResponse(load=told)


class Servers:
    """Servers on ports of their own; `start` gives the address."""

    def __init__(self) -> None:
        self._servers: dict[str, grpc.aio.Server] = {}

    async def start(self, servicer: FakeGateway | FakePod, address: str = "127.0.0.1:0") -> str:
        server = grpc.aio.server()
        if isinstance(servicer, FakeGateway):
            add_GatewayServicer_to_server(servicer, server)
        else:
            add_EngineServicer_to_server(servicer, server)
            add_InferenceServicer_to_server(servicer, server)
        address = f"127.0.0.1:{server.add_insecure_port(address)}"
        await server.start()
        self._servers[address] = server
        return address

    async def stop(self, address: str) -> None:
        await self._servers.pop(address).stop(0)

    async def stop_all(self) -> None:
        for address in list(self._servers):
            await self.stop(address)


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    started = Servers()
    yield started
    await started.stop_all()
