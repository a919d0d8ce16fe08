"""Tokens per second over the last few seconds."""

from __future__ import annotations

from collections import deque

WINDOW = 5.0
"""Seconds."""


class RateMeter:
    """Counts with their times; the clock is the caller's, in seconds."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()
        self._total = 0

    def add(self, now: float, count: int) -> None:
        self._counts.append((now, count))
        self._total += count
        self._drop_before(now - WINDOW)

    def per_second(self, now: float) -> float:
        self._drop_before(now - WINDOW)
        return self._total / WINDOW

    def _drop_before(self, time: float) -> None:
        while self._counts and self._counts[0][0] < time:
            self._total -= self._counts.popleft()[1]
