"""A time that is measured again and again, and may change."""

from __future__ import annotations

import math

MOST_TRUST = 16.0
HALF_LIFE = 128


class Measured:
    """The geometric mean of what was measured, the latest counting most: one part in seventeen at least.

    A busy machine makes a step ten times as long, and nothing makes it a tenth: in logarithms such
    outliers weigh less.
    """

    __slots__ = ("_at", "_log", "_weight")

    def __init__(self) -> None:
        self._log = 0.0
        self._weight = 0.0
        self._at = 0

    @property
    def value(self) -> float:
        """0 before the first measurement."""
        return math.exp(self._log) if self._weight else 0.0

    def trust(self, now: int) -> float:
        """How many measurements it is worth at step `now`, at most 16; a half after every 128 steps."""
        return self._weight * math.exp2((self._at - now) / HALF_LIFE)

    def add(self, value: float, now: int, clip: float = math.inf) -> None:
        """clip: natural logarithm of the factor beyond which a measurement counts as no further off."""
        trust = self.trust(now)
        difference = math.log(max(value, 1e-12)) - self._log
        self._log += min(max(difference, -clip), clip) / (trust + 1)
        self._weight = min(trust + 1, MOST_TRUST)
        self._at = now
