"""Endpoints from a fixed list."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from octavo.engine import ConfigError
from octavo.service.gateway.endpoints.naming import served_name
from octavo.service.gateway.endpoints.source import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

ENDPOINT = re.compile(
    r"(?:(?P<model>[^=]+)=)?(?P<address>(?:\[[0-9a-fA-F:.%\w]+\]|[^:=\[\]\s]+):(?P<port>\d{1,5}))"
)


class StaticSource:
    """Pods that stay where they are. The first that answers tells the name of those given without one."""

    def __init__(
        self,
        endpoints: Sequence[str],
        name_of: Callable[[frozenset[str]], Awaitable[str]] = served_name,
    ) -> None:
        """endpoints: `host:port`, or `model=host:port`. ConfigError if one is neither, or there is none."""
        self._name_of = name_of
        self._addresses: dict[str, set[str]] = {}
        for endpoint in endpoints:
            found = ENDPOINT.fullmatch(endpoint)
            if found is None or not 0 < int(found["port"]) < 2**16:
                raise ConfigError(f"endpoint {endpoint!r}: must be host:port or model=host:port")
            self._addresses.setdefault(found["model"] or "", set()).add(found["address"])
        if not self._addresses:
            raise ConfigError("endpoints: there must be at least one")

    async def routes(self) -> AsyncIterator[Mapping[str, Route]]:
        named = {name: frozenset(found) for name, found in self._addresses.items() if name}
        if named:
            yield {name: Route(found) for name, found in named.items()}
        if nameless := frozenset(self._addresses.get("", ())):
            name = await self._name_of(nameless)
            named[name] = named.get(name, frozenset()) | nameless
            yield {name: Route(found) for name, found in named.items()}
        await asyncio.Event().wait()
