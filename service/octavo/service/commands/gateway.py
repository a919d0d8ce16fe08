"""`octavo gateway`."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from octavo.service.gateway.config import load_gateway_config
from octavo.service.telemetry import logs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def serve_gateway(flags: Mapping[str, object], file: Path | None, started: float) -> None:
    config = load_gateway_config(flags, os.environ, file)
    logs.configure(config.log_level, config.log_format)
    from octavo.service.gateway.run import run_gateway

    asyncio.run(run_gateway(config, started))
