"""`octavo serve`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import TYPE_CHECKING

from octavo.service.config import load_config

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def serve_model(flags: Mapping[str, object], file: Path | None, started: float) -> None:
    from octavo.service.server.run import serve

    engine_config, server_config = load_config(flags, os.environ, file)
    logging.basicConfig(
        level=server_config.log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the model loads ends at once
    asyncio.run(serve(engine_config, server_config, started))
