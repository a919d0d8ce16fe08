"""A progress bar for what takes longer than people like to wait without one."""

from __future__ import annotations

import time
from typing import Self

DELAY = 2.0
"""Seconds after which a bar is shown."""


class GenerationProgress:
    """Finished prompts of `total` and tokens per second, on stderr, if it takes longer than `DELAY`."""

    def __init__(self, total: int, *, shown: bool) -> None:
        self._total = total
        self._shown = shown
        self._start = time.monotonic()
        self._num_done = 0
        self._num_tokens = 0
        self._bar: _Bar | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, num_done: int, num_tokens: int) -> None:
        self._num_done += num_done
        self._num_tokens += num_tokens
        seconds = time.monotonic() - self._start
        if self._bar is None and self._shown and seconds > DELAY:
            self._bar = _Bar(self._total)
        if self._bar is not None:
            self._bar.update(self._num_done, self._num_tokens / seconds)


class _Bar:
    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("generating"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.0f} tokens/s"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("generating", total=total, rate=0.0)
        self._progress.start()

    def update(self, num_done: int, rate: float) -> None:
        self._progress.update(self._task, completed=num_done, rate=rate)

    def close(self) -> None:
        self._progress.stop()
