"""A pod's server: gRPC and, if asked, HTTP; and the order in which it goes out of service."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from octavo.service.rpc.boundary import Boundary
from octavo.service.rpc.listening import listen, options
from octavo.service.server.afterwork import Afterwork
from octavo.service.server.backend import EngineBackend
from octavo.service.server.engine import Engine
from octavo.service.server.inference import Inference
from octavo.service.telemetry.rpc import TracedCalls
from octavo.service.telemetry.setup import Telemetry
from octavo.v1 import engine_pb2, engine_pb2_grpc, inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from octavo.engine.async_engine import AsyncEngine
    from octavo.service.config import ServerConfig
    from octavo.service.openai.server import HTTPServer

SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["Inference"].full_name,
    engine_pb2.DESCRIPTOR.services_by_name["Engine"].full_name,
)
ENVELOPED = 2
"""Times the largest request: room for what a gateway adds to one that it brings from another server."""
MARGIN = 1.0
"""Seconds beyond the grace period for a drain to end what is left."""
LAST_WORDS = 2.0
"""Seconds for clients to take their last messages once no request runs any longer."""


class Server:
    """Listens at once, so that a taken port is found before minutes go into a model; serves after `start`."""

    def __init__(self, config: ServerConfig, address: str) -> None:
        """address: host:port, or unix:path. ConfigError if nothing can listen there. Needs a running loop."""
        self.config = config
        self._telemetry = Telemetry.start("octavo-engine")
        interceptors = [TracedCalls(self._telemetry.tracer), Boundary(config.max_message_size)]
        self._grpc = grpc.aio.server(
            interceptors=interceptors, options=options(ENVELOPED * config.max_message_size)
        )
        self._health = health.aio.HealthServicer()
        self._stopped = asyncio.Event()
        self._drained: asyncio.Task[None] | None = None
        self._failure: asyncio.Task[None] | None = None
        self._afterwork: asyncio.Task[None] | None = None
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends, with an error, if something goes wrong that is no request's fault."""
        self._engine: AsyncEngine | None = None
        self.address = listen(self._grpc, address)
        self._http: HTTPServer | None = None
        if config.http:
            from octavo.service.openai.server import HTTPServer

            self._http = HTTPServer(config.host, config.http_port)

    async def start(self, engine: AsyncEngine) -> None:
        """Serves a loaded engine, which it starts.

        From then on gRPC is answered. What is asked over HTTP waits some tenths of a second more.
        """
        self._engine = engine
        await engine.start()
        served_name = self.config.served_name or engine.model.name
        backend = EngineBackend(engine, served_name, self._telemetry.tracer)
        afterwork = Afterwork(backend, self._telemetry, self._http)
        inference = Inference(backend, self._stopped)
        cluster = Engine(backend, self.config.grace_period, self.drain, self._stopped)
        inference_pb2_grpc.add_InferenceServicer_to_server(inference, self._grpc)
        engine_pb2_grpc.add_EngineServicer_to_server(cluster, self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection(
            (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._grpc
        )
        for service in SERVICES:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        await self._grpc.start()
        self._failure = asyncio.create_task(self._give_up_with(engine))
        self._afterwork = asyncio.create_task(self._finish(afterwork))

    async def _finish(self, afterwork: Afterwork) -> None:
        try:
            await afterwork.run(self.config, self._trouble)
        except Exception as error:
            self.broken.set_exception(error)

    async def _give_up_with(self, engine: AsyncEngine) -> None:
        """An engine that has failed serves nobody: health says so, and calls without a request end."""
        await engine.failed.wait()
        await self._health.enter_graceful_shutdown()
        self._stopped.set()

    @property
    def http_url(self) -> str | None:
        return f"http://{self._http.address}" if self._http else None

    def _trouble(self) -> str | None:
        """Why no request can be served now."""
        assert self._engine is not None
        if self._engine.failed.is_set():
            return "the engine has failed"
        return "the server is draining" if self._engine.load().draining else None

    async def drain(self, grace: float) -> None:
        """Health turns NOT_SERVING, new requests are refused, running ones end within `grace` seconds.

        Can be called again, and cancelled: it drains once, to the end, with the first call's grace.
        """
        if self._drained is None:
            self._drained = asyncio.create_task(self._drain(grace))
        await asyncio.shield(self._drained)

    async def _drain(self, grace: float) -> None:
        assert self._engine is not None
        await self._health.enter_graceful_shutdown()
        await self._engine.drain(grace)

    async def stop(self, grace: float = 0.0) -> None:
        """Drains, ends the calls that are open without a request in them, and gives back port and engine."""
        if self._engine is not None:
            with contextlib.suppress(TimeoutError):  # a Drain before may have been more patient
                await asyncio.wait_for(self.drain(grace), grace + MARGIN)
            await self._engine.stop()
        if self._failure is not None:
            self._failure.cancel()
        if self._afterwork is not None:
            # What the engine has told must still get out: it may wait for the metrics to be there.
            await asyncio.wait({self._afterwork}, timeout=5 * MARGIN)
            self._afterwork.cancel()
            await asyncio.wait({self._afterwork})
        self._stopped.set()
        stopping = [self._grpc.stop(LAST_WORDS)]
        if self._http is not None:
            stopping.append(self._http.stop(LAST_WORDS))
        await asyncio.gather(*stopping)
        await asyncio.to_thread(self._telemetry.close)
