"""Endpoints from DNS: all addresses of one name are pods of one model."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING

from octavo.engine import ConfigError
from octavo.service.gateway.endpoints.address import host_and_port
from octavo.service.gateway.endpoints.naming import served_name
from octavo.service.gateway.endpoints.source import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

log = logging.getLogger(__name__)

INTERVAL = 3.0
"""Seconds between two look-ups."""


async def resolve(host: str, port: int) -> frozenset[str]:
    """All IPv4 and IPv6 addresses of a name, with the port. OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return frozenset(host_and_port(str(address[0]), port) for *_, address in found)


class DnsSource:
    """Looks a name up every few seconds. While that fails, what was found last stays."""

    def __init__(
        self,
        name: str,
        model: str | None = None,
        interval: float = INTERVAL,
        resolve: Callable[[str, int], Awaitable[frozenset[str]]] = resolve,
        name_of: Callable[[frozenset[str]], Awaitable[str]] = served_name,
    ) -> None:
        """name: `host:port`. model: its name for requests; the one that a pod tells if None. ConfigError."""
        host, _, port = name.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ConfigError(f"DNS name {name!r}: must be host:port")
        self._host, self._port = host.strip("[]"), int(port)
        self._model = model
        self._interval = interval
        self._resolve = resolve
        self._name_of = name_of

    async def routes(self) -> AsyncIterator[Mapping[str, Route]]:
        known: frozenset[str] = frozenset()
        failing = False
        while True:
            try:
                found = await self._resolve(self._host, self._port)
                failing = False
            except OSError as error:
                if not failing:
                    log.warning("cannot look up %s: %s", self._host, error)
                found, failing = known, True
            if found != known:
                model = self._model or await self._name_of(found)
                known = found
                yield {model: Route(found)}
            await asyncio.sleep(self._interval)
