"""Reading, from the threads that export metrics, what belongs to the event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")

PATIENCE = 1.0
"""Seconds to wait for a loop that is busy; then the last value stands in."""


class OnLoop(Generic[Value]):
    """Calls `read` on the thread of the loop on which this was made, and waits for what it returns."""

    def __init__(self, read: Callable[[], Value]) -> None:
        self._read = read
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._last = read()

    def __call__(self) -> Value:
        if threading.get_ident() == self._thread:
            self._last = self._read()
        elif not self._loop.is_closed():
            answer: concurrent.futures.Future[Value] = concurrent.futures.Future()
            self._loop.call_soon_threadsafe(lambda: answer.set_result(self._read()))
            with contextlib.suppress(TimeoutError):
                self._last = answer.result(PATIENCE)
        return self._last
