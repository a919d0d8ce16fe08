"""A gateway's server: its doors, and the order in which it goes out of service."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from octavo.service.gateway.gateway_service import Gateway
from octavo.service.gateway.inference import PASSED_ON, Inference
from octavo.service.gateway.router import Router
from octavo.service.openai.app import create_app
from octavo.service.openai.server import HTTPServer
from octavo.service.rpc.boundary import Boundary
from octavo.service.rpc.listening import listen, options
from octavo.service.telemetry.http import TracedRequests
from octavo.service.telemetry.rpc import TracedCalls
from octavo.service.telemetry.setup import Telemetry
from octavo.v1 import gateway_pb2, gateway_pb2_grpc, inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from octavo.service.gateway.config import GatewayConfig
    from octavo.service.gateway.directory import Directory

SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["Inference"].full_name,
    gateway_pb2.DESCRIPTOR.services_by_name["Gateway"].full_name,
)
LAST_WORDS = 2.0
"""Seconds for clients to take their last messages once no request runs any longer."""


class Server:
    """Listens at once; serves after `start`.

    Health tells two things: of the server as a whole (service ""), that it is alive; of each service, that
    the gateway knows where its pods are, too.
    """

    def __init__(self, config: GatewayConfig) -> None:
        """ConfigError if nothing can listen where the settings say. Needs a running loop."""
        self.config = config
        self._telemetry = Telemetry.start("octavo-gateway")
        # Order: the first one is outermost and sees with which status a call leaves.
        interceptors = [TracedCalls(self._telemetry.tracer), Boundary(passed_on=PASSED_ON)]
        self._grpc = grpc.aio.server(interceptors=interceptors, options=options(config.max_message_size))
        self._health = health.aio.HealthServicer()
        self._stopped = asyncio.Event()
        self._router: Router | None = None
        self._readiness: asyncio.Task[None] | None = None
        self.address = listen(self._grpc, config.address)
        self._http = HTTPServer(config.host, config.http_port) if config.http else None

    @property
    def http_url(self) -> str | None:
        return f"http://{self._http.address}" if self._http else None

    async def start(self, directory: Directory) -> None:
        """Serves the models of a directory that has started."""
        router = self._router = Router(directory, self.config.retries, telemetry=self._telemetry)
        inference_pb2_grpc.add_InferenceServicer_to_server(Inference(router, self._stopped), self._grpc)
        gateway_pb2_grpc.add_GatewayServicer_to_server(Gateway(directory, self._stopped), self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._grpc)
        for service in SERVICES:
            await self._health.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._grpc.start()
        self._readiness = asyncio.create_task(self._serve_when_ready(directory))
        if self._http is not None:
            app = create_app(
                router,
                metrics=self._telemetry.page,
                health=self._trouble,
                max_body_size=self.config.max_message_size,
            )
            await self._http.start(TracedRequests(app, self._telemetry.tracer))

    async def _serve_when_ready(self, directory: Directory) -> None:
        await directory.until_ready()
        for service in SERVICES:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    def _trouble(self) -> str | None:
        """Why no request can be served now."""
        assert self._router is not None
        if self._router.draining:
            return "the gateway is draining"
        return None if self._router.directory.ready else "the gateway does not know its models yet"

    async def stop(self, grace: float = 0.0) -> None:
        """Refuses new requests, gives running ones `grace` seconds, and ends what is left."""
        if self._readiness is not None:
            self._readiness.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._readiness
        await self._health.enter_graceful_shutdown()
        if self._router is not None:
            await self._router.drain(grace)
        self._stopped.set()
        stopping = [self._grpc.stop(LAST_WORDS)]
        if self._http is not None:
            stopping.append(self._http.stop(LAST_WORDS))
        await asyncio.gather(*stopping)
        if self._router is not None:
            await self._router.close()
        await asyncio.to_thread(self._telemetry.close)
