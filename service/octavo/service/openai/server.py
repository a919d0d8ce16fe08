"""The HTTP server: a port, an application on it, and a graceful end; beside gRPC in one event loop."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from octavo.engine import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from octavo.service.openai.exchange import Application

BACKLOG = 2048
KEEP_ALIVE = 75
"""Seconds for which an idle connection is kept: longer than load balancers do, so that they close it."""
MAX_HEAD_SIZE = 64 * 1024
"""Bytes of a request's line and headers."""
PATIENCE = 60
"""Seconds for a request to come whole, from the moment at which its connection is there or it begins."""
VANISHED = 30
"""Seconds after which an idle peer that vanished without a word, its machine off, is taken for gone."""
STALLED = 120
"""Seconds after which a peer that takes nothing of what is sent is taken for gone."""

SEND_BUFFER = 64 * 1024
"""Bytes that the kernel takes for a peer who does not read: hundreds of tokens. Left alone it takes
megabytes, and the sequence of a reader who has stopped would run to its end."""


class HTTPServer:
    """Listens at once, so that a taken port is found before minutes go into a model; serves after `start`."""

    def __init__(self, host: str, port: int) -> None:
        """port: 0 for any free one. ConfigError if nothing can listen there."""
        self._sockets = listen(host, port)
        self.port: int = self._sockets[0].getsockname()[1]
        self.address = f"{host}:{self.port}"
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self, app: Application) -> None:
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # what it tells else is told by whoever runs it
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE,
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(self._sockets))

    async def stop(self, grace: float) -> None:
        """Takes no new connection, and gives open requests `grace` seconds to end."""
        if self._server is None or self._serving is None:
            for each in self._sockets:
                each.close()
            return
        self._server.should_exit = True
        _, late = await asyncio.wait({self._serving}, timeout=grace)
        if late:
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()
            await self._serving


def listen(host: str, port: int) -> list[socket.socket]:
    """One socket for each address of the host, all on one port."""
    bare = host.removeprefix("[").removesuffix("]")
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            bare, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            each = socket.socket(family, kind, protocol)
            sockets.append(each)
            _set_options(each)
            chosen = sockets[0].getsockname()[1] if port == 0 and len(sockets) > 1 else port
            each.bind((address[0], chosen, *address[2:]))
            each.listen(BACKLOG)
    except OSError as error:
        for each in sockets:
            each.close()
        reason = error.strerror or error
        raise ConfigError(f"address {host}:{port}: cannot be listened on: {reason}") from None
    return sockets


def _set_options(listener: socket.socket) -> None:
    """The connections that it accepts inherit them."""
    listener.setblocking(False)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", VANISHED - 10),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 2),
        ("TCP_USER_TIMEOUT", STALLED * 1000),
    ):
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class _Server(uvicorn.Server):
    """Signals are the business of whoever runs the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(HttpToolsProtocol):
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
