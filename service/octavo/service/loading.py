"""Loading a model with something to look at, if it takes longer than one cares to wait in the dark."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from octavo.engine import ConfigError

if TYPE_CHECKING:
    from octavo.engine import EngineConfig
    from octavo.engine.async_engine import AsyncEngine

PATIENCE = 2.0
"""Seconds before the progress is shown."""


def load(config: EngineConfig) -> AsyncEngine:
    """A loaded engine; blocks. Progress goes to stderr, if that is a terminal. ModelError or ConfigError."""
    from rich.console import Console

    status = Console(stderr=True).status(f"loading {config.model}: starting torch")
    timer = threading.Timer(PATIENCE, status.start)
    timer.daemon = True
    timer.start()
    try:
        from octavo.engine.async_engine import AsyncEngine

        return AsyncEngine.load_model(config, lambda name: status.update(f"loading {config.model}: {name}"))
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"this installation can only talk to servers: {error.name} is missing; "
            "install the engine with: pip install 'octavo[engine]'"
        ) from None
    finally:
        timer.cancel()
        timer.join()
        status.stop()
