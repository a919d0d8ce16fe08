"""`octavo serve`."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

from octavo.engine import EngineStopped
from octavo.service.config import load_config
from octavo.service.telemetry import logs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def serve_model(flags: Mapping[str, object], file: Path | None, started: float) -> None:
    # What is made until the server is ready stays. Looking it over for garbage meanwhile takes 20 ms.
    gc.disable()
    from octavo.service.server.run import serve

    engine_config, server_config = load_config(flags, os.environ, file)
    logs.configure(server_config.log_level, server_config.log_format)
    # While the model loads, both signals end at once; as a container's first process it would ignore SIGTERM.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: os._exit(128 + received))
    try:
        asyncio.run(serve(engine_config, server_config, started))
    except EngineStopped as error:
        # A thread that hangs in a device's driver would keep the process from ending in the usual way.
        print(f"octavo: {error}", file=sys.stderr, flush=True)
        os._exit(1)
