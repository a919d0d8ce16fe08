"""A server inside this process, for a command that was given a model instead of an address."""

from __future__ import annotations

import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from octavo.engine import EngineConfig


@asynccontextmanager
async def local_server(config: EngineConfig) -> AsyncIterator[str]:
    """Loads the model and serves it on a socket that only this user can reach; its address.

    So the commands have one way to talk to a model, wherever it is. ModelError or ConfigError.
    """
    from octavo.service.config import ServerConfig
    from octavo.service.loading import load
    from octavo.service.server.server import Server

    with tempfile.TemporaryDirectory(prefix="octavo-") as folder:
        server = Server(ServerConfig(), f"unix:{folder}/socket")
        await server.start(load(config))
        try:
            yield server.address
        finally:
            await server.stop()
