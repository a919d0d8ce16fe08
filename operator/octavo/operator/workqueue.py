"""Work by key: each key at most once in the queue, never twice at a time, failures ever later.

Source: client-go's util/workqueue.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

K = TypeVar("K", bound="Hashable")

FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 60.0


class WorkQueue(Generic[K]):
    """Keys that wait for a worker. What is added again meanwhile is done again afterwards, once."""

    def __init__(self, debounce: float) -> None:
        """debounce: seconds for which events gather before their key is worked on."""
        self._debounce = debounce
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._queued: set[K] = set()
        self._busy: set[K] = set()
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}

    def add(self, key: K) -> None:
        """Work on the key soon; not before its backoff has passed, if it failed."""
        if key in self._busy:
            self._again.add(key)
        elif key not in self._queued and key not in self._timers:
            self._after(key, self._debounce)

    def hasten(self, key: K) -> None:
        """Like `add`, but what failed before no longer delays it: something has changed."""
        self._failures.pop(key, None)
        if timer := self._timers.pop(key, None):
            timer.cancel()
        self.add(key)

    async def next(self) -> K:
        """The next key; its worker calls `done` or `failed` afterwards."""
        key = await self._ready.get()
        self._queued.discard(key)
        self._busy.add(key)
        return key

    def done(self, key: K) -> None:
        self._failures.pop(key, None)
        self._busy.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def failed(self, key: K) -> float:
        """Seconds until the key comes again: 0.5, 1, 2, … up to 60."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self._busy.discard(key)
        self._again.discard(key)
        delay = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(failures, 20))
        self._after(key, delay)
        return delay

    def forget(self) -> None:
        """Empties the queue."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._again.clear()
        self._failures.clear()
        self._queued.clear()
        self._busy.clear()
        self._ready = asyncio.Queue()

    def _after(self, key: K, delay: float) -> None:
        self._timers[key] = asyncio.get_running_loop().call_later(delay, self._release, key)

    def _release(self, key: K) -> None:
        del self._timers[key]
        self._queued.add(key)
        self._ready.put_nowait(key)
