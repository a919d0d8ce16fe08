"""Loading a model with something to look at, if it takes longer than one cares to wait in the dark."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Self

from octavo.engine import ConfigError

if TYPE_CHECKING:
    from types import TracebackType

    from rich.status import Status

    from octavo.engine import EngineConfig
    from octavo.engine.async_engine import AsyncEngine

PATIENCE = 2.0
"""Seconds before the progress is shown."""


def load(config: EngineConfig) -> AsyncEngine:
    """A loaded engine; blocks. Progress goes to stderr, if that is a terminal. ModelError or ConfigError."""
    with _Progress(config.model) as progress:
        try:
            from octavo.engine.async_engine import AsyncEngine

            return AsyncEngine.load_model(config, progress.tell)
        except ModuleNotFoundError as error:
            raise ConfigError(_missing(error.name)) from None


def _missing(name: str | None) -> str:
    if name == "torch":
        return (
            "this installation has no torch, which this model or device needs; "
            "install it with: pip install 'octavo[engine]'"
        )
    return (
        f"this installation can only talk to servers: {name} is missing; "
        "install the engine with: pip install 'octavo[engine]', or 'octavo[cpu]' for CPUs without torch"
    )


class _Progress:
    """A line on the terminal that says what is being loaded, from the moment at which patience ends."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._what = "starting"
        self._status: Status | None = None
        self._timer: threading.Timer | None = None

    def tell(self, what: str) -> None:
        self._what = what
        if self._status is not None:
            self._status.update(self._text)

    @property
    def _text(self) -> str:
        return f"loading {self._model}: {self._what}"

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._timer = threading.Timer(PATIENCE, self._show)
            self._timer.daemon = True
            self._timer.start()
        return self

    def _show(self) -> None:
        from rich.console import Console

        self._status = Console(stderr=True).status(self._text)
        self._status.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
        if self._status is not None:
            self._status.stop()
