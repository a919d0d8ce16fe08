"""How often, and for how long, a request is tried on another pod."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DEPOSIT = 0.1
"""What a request that ends well adds to the budget, in retries."""
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
"""Seconds between attempts: none before the first retry, then FIRST_PAUSE, doubled each time, up to this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """Limits of retrying.

    max_attempts: pods that one request is sent to without a token of progress.
    patience: seconds for which a request waits for a pod: at first, and each time that it has lost one.
    wake_patience: the same while the model has no pod that has ever been ready, but may get one.
    budget: retries without progress that all requests together may make at once.
    budget_per_second: such retries that come to the budget each second.
    """

    max_attempts: int = 5
    patience: float = 15.0
    wake_patience: float = 300.0
    budget: float = 64.0
    budget_per_second: float = 10.0


class RetryBudget:
    """A token bucket that all requests of a gateway share, so that a fleet that dies is not hammered.

    Every retry takes one; time and requests that end well put back (after gRPC's retry throttling, gRFC A6,
    and Finagle's RetryBudget). Retries of a stream that has made progress since its last attempt are free:
    each token it brought was worth the attempt, and a pod's death moves all of its streams at once.
    """

    def __init__(self, settings: RetrySettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = settings.budget
        self._per_second = settings.budget_per_second
        self._clock = clock
        self._level = settings.budget
        self._at = clock()

    def wait(self) -> float:
        """Seconds until one retry more may be made."""
        self._fill()
        return max(0.0, 1.0 - self._level) / self._per_second

    def take(self) -> None:
        """Takes one retry, if need be out of what is still to come: those who wait for it queue up so."""
        self._fill()
        self._level -= 1.0

    def deposit(self) -> None:
        """A request has ended well."""
        self._level = min(self._most, self._level + DEPOSIT)

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._most, self._level + (now - self._at) * self._per_second)
        self._at = now


class Attempts:
    """One request's attempts. `after` is asked when one has failed."""

    def __init__(
        self, settings: RetrySettings, budget: RetryBudget, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.tried: frozenset[str] = frozenset()
        """Addresses that have failed the request since it last made progress."""
        self._settings = settings
        self._budget = budget
        self._clock = clock
        self._failures = 0
        self._deadline = 0.0

    def after(self, address: str, *, progress: bool, busy: bool = False) -> float | None:
        """Seconds to wait before the next attempt; None if there is to be none.

        progress: whether the attempt has brought a token.
        busy: the pod is well, but full. It does not count as one of `max_attempts`: others may have room.
        """
        now = self._clock()
        if progress:
            self.tried, self._failures = frozenset(), 0
        self.tried |= {address}
        if not self._failures:
            self._deadline = now + self._settings.patience
        self._failures += 1
        if self._failures >= self._settings.max_attempts and not busy:
            return None
        pause = self._pause()
        if not progress:
            pause = max(pause, self._budget.wait())
        if now + pause > self._deadline:
            return None
        if not progress:
            self._budget.take()
        return pause

    @property
    def remaining(self) -> float:
        """Seconds of patience that are left after a failure."""
        return max(0.0, self._deadline - self._clock())

    def _pause(self) -> float:
        if self._failures < 2:
            return 0.0
        return float(min(FIRST_PAUSE * 2 ** (self._failures - 2), LONGEST_PAUSE))
