"""HTTP as uvicorn speaks it, with limits that it lacks. Takes a tenth of a second to import."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from octavo.service.openai.exchange import Application

KEEP_ALIVE = 75
"""Seconds for which an idle connection is kept: longer than load balancers do, so that they close it."""
MAX_HEAD_SIZE = 64 * 1024
"""Bytes of a request's line and headers."""
PATIENCE = 60
"""Seconds for a request to come whole, from the moment at which its connection is there or it begins."""


def server_of(app: Application, backlog: int) -> Server:
    """A server of `app` that is to be given its sockets. backlog: connections that may wait on each."""
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # what it tells else is told by whoever runs it
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=backlog,
        timeout_keep_alive=KEEP_ALIVE,
    )
    return Server(config)


class Server(uvicorn.Server):
    """Signals are the business of whoever runs the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Protocol(HttpToolsProtocol):
    """Ends a connection whose request has too long a head, or does not come to its end.

    uvicorn would keep all of the one in memory, and wait for the other for ever.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        super().connection_made(transport)
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._head_size = 0
        self._expect_request()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_message_complete(self) -> None:
        self._expect_nothing()
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD_SIZE:
            raise httptools.HttpParserError("the head is too long")

    def _expect_request(self) -> None:
        self._expect_nothing()
        self._deadline = self.loop.call_later(PATIENCE, self._give_up)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def _give_up(self) -> None:
        answering = self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete
        if answering or self.pipeline:
            # A request that comes before the answer to the one before is read after it.
            self._expect_request()
        else:
            self.transport.close()
