"""A route: hands each request to its handler, ends the work of clients who leave, and tells errors."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from octavo.engine import OctavoError
from octavo.service.openai.errors import refusal
from octavo.service.openai.exchange import Exchange, Gone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from octavo.service.openai.exchange import Receive, Scope, Send

log = logging.getLogger(__name__)


class Endpoint:
    """An ASGI application of one route."""

    def __init__(self, handle: Callable[[Exchange], Awaitable[None]], max_body_size: int) -> None:
        self._handle = handle
        self._max_body_size = max_body_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = scope["exchange"] = Exchange(scope, receive, send, self._max_body_size)
        try:
            await self._handle(exchange)
        except Gone:
            pass
        except Exception as error:
            if not isinstance(error, OctavoError):
                log.exception("unexpected error in %s %s", exchange.method, exchange.path)
            await exchange.fail(refusal(error))


async def while_connected(exchange: Exchange, work: Awaitable[None]) -> None:
    """Does the work, or cancels it when the client leaves; the request must have been read."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(exchange.until_gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        gone = not working.done()
    finally:
        leaving.cancel()
        working.cancel()
        # It ends the request in the engine, and that must not be left half done.
        await asyncio.gather(working, return_exceptions=True)
    if gone:
        raise Gone
    await working
