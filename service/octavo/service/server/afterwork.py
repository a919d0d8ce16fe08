"""What a server does once it is ready: it prepares what the first request, or nobody, will ask for.

That takes as long as all that comes before. Requests are answered meanwhile: one that needs something of this
waits for it, and only for that.
"""

from __future__ import annotations

import asyncio
import logging
from importlib import import_module
from typing import TYPE_CHECKING

from octavo.engine import ModelError
from octavo.service.telemetry.early_reports import EarlyReports

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo.engine.async_engine import AsyncEngine
    from octavo.service.config import ServerConfig
    from octavo.service.openai.server import HTTPServer
    from octavo.service.server.backend import EngineBackend
    from octavo.service.telemetry.setup import Telemetry

log = logging.getLogger("octavo")


class Afterwork:
    """Made before the engine's first request; `run` is to be called once."""

    def __init__(self, backend: EngineBackend, telemetry: Telemetry, http: HTTPServer | None) -> None:
        self._backend = backend
        self._engine: AsyncEngine = backend.engine
        self._telemetry = telemetry
        self._http = http
        self._reports: EarlyReports | None = None
        if http is not None or telemetry.exports_metrics:
            self._reports = self._engine.observer = EarlyReports()

    async def run(self, config: ServerConfig, trouble: Callable[[], str | None]) -> None:
        """trouble: why no request can be served now, for HTTP's /health."""
        await asyncio.to_thread(self._load_tokenizer)
        if self._reports is not None:
            await self._begin_metrics(self._reports)
        if self._http is not None:
            await self._begin_http(self._http, config, trouble)

    def _load_tokenizer(self) -> None:
        tokenizer = self._engine.tokenizer
        _ = tokenizer.backend
        try:
            if tokenizer.chat_template is not None:
                tokenizer.chat_template.compile()
        except ModelError as error:
            log.warning("%s; chats are refused", error)

    async def _begin_metrics(self, reports: EarlyReports) -> None:
        await asyncio.to_thread(self._import_metrics)
        from octavo.service.telemetry.engine_metrics import EngineMetrics

        metrics = EngineMetrics(self._telemetry, self._engine, self._backend.reader.served_name)
        reports.pass_on(metrics)
        self._engine.observer = metrics

    def _import_metrics(self) -> None:
        import_module("octavo.service.telemetry.engine_metrics")
        _ = self._telemetry.meter

    async def _begin_http(
        self, http: HTTPServer, config: ServerConfig, trouble: Callable[[], str | None]
    ) -> None:
        for module in ("openai.app", "openai.protocol", "telemetry.http"):
            await asyncio.to_thread(import_module, f"octavo.service.{module}")
        from octavo.service.openai.app import create_app
        from octavo.service.telemetry.http import TracedRequests

        page, size = self._telemetry.page, config.max_message_size
        app = create_app(self._backend, metrics=page, health=trouble, max_body_size=size)
        await http.start(TracedRequests(app, self._telemetry.tracer))
