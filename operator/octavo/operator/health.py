"""Whether the operator advances: /healthz, /readyz and /metrics."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from octavo.operator.metrics import Metrics


@asynccontextmanager
async def health_server(
    host: str, port: int, metrics: Metrics, alive: Callable[[], str], ready: Callable[[], str]
) -> AsyncIterator[None]:
    """Serves while entered. `alive` and `ready` say what is wrong; nothing if all is well."""

    def answer(check: Callable[[], str]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(_: web.Request) -> web.Response:
            wrong = check()
            return web.Response(text=f"{wrong or 'ok'}\n", status=503 if wrong else 200)

        return handle

    async def page(_: web.Request) -> web.Response:
        body = generate_latest(metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", answer(alive))
    app.router.add_get("/readyz", answer(ready))
    app.router.add_get("/metrics", page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()
