"""What the governor weighs in one step: sequences that could be guessed for, and what tokens take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

    from octavo.engine.speculation.step_times import Forecast


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sequence.

    expected, hopeful: of each guess the probability that it and all before it are accepted.
    catching_up: time until anything can be guessed for it, in units of the level.
    """

    expected: list[float]
    hopeful: list[float]
    catching_up: float

    def sober(self, count: int) -> list[float]:
        """What is expected of `count` guesses; nothing of those that are too unlikely to be weighed."""
        return [*self.expected, *[0.0] * count][:count]


@dataclass(frozen=True, slots=True)
class Prices:
    """Times in units of the level. round: of one guess for every sequence, 0 if that is negligible."""

    num_decodes: int
    times: Forecast
    round: float

    @property
    def plain(self) -> float:
        """The step without guesses."""
        return float(self.times.usual[0])

    @property
    def rate(self) -> float:
        """Tokens per unit of time without guesses."""
        return self.num_decodes / self.plain

    def saving(self, gains: Items[float], sharing: int) -> float:
        """What guesses that are accepted with these probabilities are expected to save in a step, for one
        of `sharing` sequences that are guessed for in the same rounds."""
        gain = self.plain * sum(gains) / self.num_decodes
        verifying = float(self.times.usual[len(gains)]) - self.plain
        return gain - verifying - self.round * len(gains) / max(sharing, 1)
