"""The life of the process behind `octavo gateway`: bind, follow the endpoints, serve, drain, end."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from octavo.service.gateway.server import Server
from octavo.service.gateway.sources import directory_of
from octavo.service.signals import first_signal

if TYPE_CHECKING:
    from octavo.service.gateway.config import GatewayConfig

log = logging.getLogger("octavo")


async def run_gateway(config: GatewayConfig, started: float) -> None:
    """Serves until SIGTERM or SIGINT.

    started: when the process began (time.monotonic), for the log.
    Raises ConfigError if it cannot begin.
    """
    signalled = first_signal()
    server = Server(config)
    async with directory_of(config) as directory:
        await server.start(directory)
        addresses = " and ".join(filter(None, (server.address, server.http_url)))
        log.info("ready in %.1f s: gateway on %s", time.monotonic() - started, addresses)
        signal = await signalled
        log.info(
            "%s: draining; running requests may go on for %g s (a second signal ends at once)",
            signal.name,
            config.grace_period,
        )
        await server.stop(config.grace_period)
    log.info("stopped")
