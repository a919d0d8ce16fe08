"""A pod that is nothing but its load: it reports what the test says, and stops when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc

from octavo.v1 import engine_pb2, inference_pb2
from octavo.v1.engine_pb2_grpc import EngineServicer, add_EngineServicer_to_server
from octavo.v1.inference_pb2_grpc import InferenceServicer, add_InferenceServicer_to_server


class FakePod(EngineServicer, InferenceServicer):
    """Serves on a port of this machine. `load` is what it reports; `silent` keeps it from reporting."""

    interceptors: Sequence[grpc.aio.ServerInterceptor] = ()

    def __init__(self, model: str = "tiny") -> None:
        self.model = model
        self.load = engine_pb2.Load(total_blocks=1000, max_num_seqs=64)
        self.silent = False
        self.address = ""
        self.watchers = 0
        self._server: grpc.aio.Server | None = None

    async def start(self) -> FakePod:
        """On the port that it had before, if any."""
        self._server = grpc.aio.server(interceptors=self.interceptors, options=[("grpc.so_reuseport", 0)])
        add_EngineServicer_to_server(self, self._server)
        add_InferenceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(self.address or "127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await self._server.start()
        return self

    async def die(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def WatchLoad(self, request: engine_pb2.WatchLoadRequest, context: Any) -> None:
        self.watchers += 1
        try:
            while True:
                if not self.silent:
                    await context.write(engine_pb2.WatchLoadResponse(load=self.load))
                await asyncio.sleep(request.interval.ToNanoseconds() / 1e9)
        finally:
            self.watchers -= 1

    async def GetModel(self, request: Any, context: Any) -> inference_pb2.GetModelResponse:
        return inference_pb2.GetModelResponse(model=inference_pb2.Model(name=self.model, block_size=16))
