"""The life of the process behind `octavo serve`: bind, load, serve until a signal, drain, end."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from typing import TYPE_CHECKING, Any

from octavo.engine import EngineStopped
from octavo.service.loading import load
from octavo.service.server.server import Server
from octavo.service.signals import first_signal

if TYPE_CHECKING:
    from octavo.engine import EngineConfig
    from octavo.service.config import ServerConfig

log = logging.getLogger("octavo")


async def serve(engine_config: EngineConfig, server_config: ServerConfig, started: float) -> None:
    """Serves until SIGTERM or SIGINT.

    started: when the process began (time.monotonic), for the log.
    Raises ConfigError or ModelError if it cannot begin, EngineStopped if the engine fails.
    """
    server = Server(server_config, server_config.address)
    # Nobody is served yet, so the loop may stand still meanwhile, and the signals keep their default effect.
    engine = load(engine_config)
    signalled = first_signal()
    await server.start(engine)
    model = engine.model
    log.info(
        "ready in %.1f s: %s on %s (%d KV blocks of %d tokens, context of %d tokens, %s, %s)",
        time.monotonic() - started,
        server_config.served_name or model.name,
        " and ".join(filter(None, (server.address, server.http_url))),
        model.num_blocks,
        model.block_size,
        model.max_model_len,
        model.dtype,
        model.device,
    )
    gc.freeze()
    gc.enable()
    failed = asyncio.ensure_future(engine.failed.wait())
    ends: set[asyncio.Future[Any]] = {signalled, failed, server.broken}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if server.broken.done():
        await server.stop()
        server.broken.result()
    if failed.done():
        await server.stop()
        raise EngineStopped("the engine has failed; its log tells more")
    failed.cancel()
    log.info(
        "%s: draining; running requests may go on for %g s (a second signal ends at once)",
        signalled.result().name,
        server_config.grace_period,
    )
    await server.stop(server_config.grace_period)
    log.info("stopped")
