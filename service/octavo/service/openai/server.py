"""The HTTP server: a port, an application on it, and a graceful end; beside gRPC in one event loop."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from octavo.engine import ConfigError

if TYPE_CHECKING:
    from octavo.service.openai.exchange import Application
    from octavo.service.openai.protocol import Server

BACKLOG = 2048
VANISHED = 30
"""Seconds after which an idle peer that vanished without a word, its machine off, is taken for gone."""
STALLED = 120
"""Seconds after which a peer that takes nothing of what is sent is taken for gone."""

SEND_BUFFER = 64 * 1024
"""Bytes that the kernel takes for a peer who does not read: hundreds of tokens. Left alone it takes
megabytes, and the sequence of a reader who has stopped would run to its end."""


class HTTPServer:
    """Listens at once, so that a taken port is found before minutes go into a model; serves after `start`.

    Connections from before wait in the kernel's queue, and are answered then.
    """

    def __init__(self, host: str, port: int) -> None:
        """port: 0 for any free one. ConfigError if nothing can listen there."""
        self._sockets = listen(host, port)
        self.port: int = self._sockets[0].getsockname()[1]
        self.address = f"{host}:{self.port}"
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self, app: Application) -> None:
        from octavo.service.openai.protocol import server_of

        self._server = server_of(app, backlog=BACKLOG)
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
