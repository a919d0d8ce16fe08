"""How often guesses are right, by their kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

SURE = 0.98
"""No guess counts as surer."""
PRIOR, PRIOR_WEIGHT = 0.5, 2.0
"""What is taken for the rate of a kind that was never seen, and as how many guesses that counts."""
ENGINE_WEIGHT = 3.0
"""As how many guesses the engine's rates count in a sequence's."""
HOPE = 2.0
"""Right guesses that a hopeful view adds."""
REFRESH = 16
"""Steps after which a sequence's rates are aged, if nothing was learned."""


class Rates:
    """Right and tried guesses of each kind.

    A guess counts for less with every later one of its kind, and with every step: texts change.
    """

    __slots__ = ("_at", "_half_life", "_keep", "right", "tried")

    def __init__(self, num_kinds: int, *, memory: int, half_life: int) -> None:
        """memory: guesses; half_life: steps."""
        self._keep = 1 - 1 / memory
        self._half_life = half_life
        self._at = 0
        self.right = [0.0] * num_kinds
        self.tried = [0.0] * num_kinds

    def learn(self, kind: int, right: bool) -> None:
        self.right[kind] = self.right[kind] * self._keep + right
        self.tried[kind] = self.tried[kind] * self._keep + 1

    def age(self, now: int) -> None:
        """Lets what was learned before step `now` fade."""
        if now > self._at:
            keep = 0.5 ** ((now - self._at) / self._half_life)
            self.right = [right * keep for right in self.right]
            self.tried = [tried * keep for tried in self.tried]
            self._at = now

    def expected(self, prior: Items[float], weight: float) -> list[float]:
        """The rate of each kind, as if `prior` had been seen in `weight` guesses before."""
        return [
            min((right + weight * before) / (tried + weight), SURE)
            for right, tried, before in zip(self.right, self.tried, prior, strict=True)
        ]

    def hopeful(self, expected: Items[float], weight: float) -> list[float]:
        """The rates if the next guesses, HOPE of each kind, were right."""
        return [
            min((rate * (tried + weight) + HOPE) / (tried + weight + HOPE), SURE)
            for rate, tried in zip(expected, self.tried, strict=True)
        ]


@dataclass(slots=True)
class Record:
    """The rates of one sequence: by kind, what is expected of its guesses and what is hoped for."""

    rates: Rates
    expected: list[float] = field(default_factory=list)
    hopeful: list[float] = field(default_factory=list)
    _updated: int = -REFRESH

    def learn(self, kind: int, right: bool) -> None:
        self.rates.learn(kind, right)
        self._updated = -REFRESH

    def update(self, engine: Items[float], now: int) -> None:
        """engine: what all sequences' guesses let expect of each kind."""
        if now - self._updated >= REFRESH:
            self._updated = now
            self.rates.age(now)
            self.expected = self.rates.expected(engine, ENGINE_WEIGHT)
            self.hopeful = self.rates.hopeful(self.expected, ENGINE_WEIGHT)


def results(kinds: Items[int], num_accepted: int) -> list[tuple[int, bool]]:
    """What a verified draft of guesses of these kinds tells: each kind that was decided, and how.

    Guesses after the first wrong one were made for a text that is not, and tell nothing.
    """
    decided = [(kind, True) for kind in kinds[:num_accepted]]
    return decided + [(kind, False) for kind in kinds[num_accepted : num_accepted + 1]]


def gains(kinds: Items[int], rates: Items[float], least: float = 0.02) -> list[float]:
    """Of each guess the probability that it and all before it are right, as long as it is at least
    `least`."""
    found: list[float] = []
    gain = 1.0
    for kind in kinds:
        gain *= rates[kind]
        if gain < least:
            break
        found.append(gain)
    return found
