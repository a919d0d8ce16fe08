"""How long a step takes by the number of its tokens, learned from the steps that are taken."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from octavo.engine.speculation.measured import Measured

Floats = npt.NDArray[np.float64]

KNOWN = 0.75
"""Trust from which on a size counts as measured."""
TRUSTED = 2.0
LEVEL_GAIN, LEVEL_CLIP = 0.5, 0.5
SHAPE_CLIP = 0.25
NOISE_GAIN = 0.05
DOUBT = 2.0
"""Standard errors, or so, by which a cautious time is longer than the usual one."""
NEIGHBOURS = 1.3
"""Sizes are interpolated, not explored, between known ones whose ratio is at most this."""


@dataclass(slots=True)
class _Size:
    """Steps of about as many tokens: how many on average, and their time in units of the level."""

    tokens: float = 0.0
    time: Measured = field(default_factory=Measured)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Times in units of the level, float64 [n + 1], of steps of some tokens and of 1 to n more.

    usual: what such steps take. Beyond what was measured times grow in proportion to the tokens: no
        device is worse.
    cautious: longer, by the noise that is left in what was measured a few times.
    hopeful: sizes that are not known, up to twice the largest, as the next smaller known one.
    """

    usual: Floats
    cautious: Floats
    hopeful: Floats


class StepTimes:
    """Time of a step = level × shape(tokens).

    The level, in seconds, follows within a few steps what all steps share: contexts that grow, a machine
    that gets busy, another number of sequences. The shape changes slowly. It alone decides what pays, so
    that a moment of noise decides little. Steps without guesses are kept apart from those with some:
    they are what all else is compared with.

    level: 0 before the first step.
    now: steps measured.
    noise: how far steps are off, on average, as a natural logarithm.
    """

    def __init__(self) -> None:
        self.level = 0.0
        self.now = 0
        self.noise = 0.0
        self._sizes: dict[tuple[int, bool], _Size] = {}

    def measure(self, num_tokens: int, num_seqs: int, seconds: float) -> None:
        """A step of `num_seqs` sequences, with guesses if it has more tokens than that."""
        self.now += 1
        seconds = max(seconds, 1e-9)
        self.level = self.level or seconds
        size = self._sizes.setdefault((_bucket(num_tokens), num_tokens > num_seqs), _Size())
        trust = size.time.trust(self.now)
        time = seconds / self.level
        if trusted := trust >= TRUSTED:
            off = math.log(time / size.time.value)
            self.level *= math.exp(LEVEL_GAIN * min(max(off, -LEVEL_CLIP), LEVEL_CLIP))
            self.noise += (min(abs(off), LEVEL_CLIP) - self.noise) * NOISE_GAIN
        size.tokens += (num_tokens - size.tokens) / (trust + 1)
        size.time.add(time, self.now, SHAPE_CLIP if trusted else math.inf)

    def trust(self, num_seqs: int) -> float:
        """From how many measurements the time of a step without guesses is known."""
        size = self._sizes.get((_bucket(num_seqs), False))
        return size.time.trust(self.now) if size is not None else 0.0

    def plain(self, num_seqs: int) -> float:
        """The time of a step without guesses in units of the level; 0 if none was measured."""
        size = self._sizes.get((_bucket(num_seqs), False))
        return size.time.value if size is not None else 0.0

    def forecast(self, num_tokens: int, most: int) -> Forecast:
        """Of steps of `num_tokens` tokens and up to `most` more. Something must have been measured."""
        sizes = sorted(self._sizes.values(), key=attrgetter("tokens"))
        tokens = np.array([size.tokens for size in sizes])
        trusts = np.array([size.time.trust(self.now) for size in sizes])
        weights = np.maximum(trusts, 1e-3)
        times = np.array(monotone([size.time.value for size in sizes], weights.tolist()))
        asked = np.arange(num_tokens, num_tokens + most + 1, dtype=np.float64)
        usual = np.interp(asked, tokens, times) * np.maximum(asked / tokens[-1], 1.0)
        trust = np.maximum(np.interp(asked, tokens, trusts), 1.0)
        known = trusts >= KNOWN
        return Forecast(
            usual=usual,
            cautious=usual * (1 + DOUBT * self.noise / np.sqrt(trust)),
            hopeful=np.minimum(usual, _hopes(asked, tokens[known], times[known])),
        )


def _hopes(asked: Floats, known: Floats, times: Floats) -> Floats:
    """The time of the next smaller known size, where the next larger is much larger or there is none;
    else infinity."""
    if not len(known):
        return np.full(len(asked), np.inf)
    above = np.searchsorted(known, asked, side="right")
    lower, upper = np.maximum(above - 1, 0), np.append(known, 2 * known[-1])[above]
    explored = (above > 0) & (asked <= upper) & (upper > NEIGHBOURS * known[lower])
    return np.where(explored, times[lower], np.inf)


def monotone(values: list[float], weights: list[float]) -> list[float]:
    """The nearest values, by weighted squares, that do not descend: neighbours that do are pooled (Ayer
    et al., 1955)."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, members
    for value, weight in zip(values, weights, strict=True):
        members = 1
        while pools and pools[-1][0] >= value:
            before, its_weight, its_members = pools.pop()
            value = (before * its_weight + value * weight) / (its_weight + weight)
            weight += its_weight
            members += its_members
        pools.append((value, weight, members))
    return [value for value, _, members in pools for _ in range(members)]


def _bucket(num_tokens: int) -> int:
    """The number's four leading bits: exact up to 15, then within an eighth."""
    shift = max(num_tokens.bit_length() - 4, 0)
    return num_tokens >> shift << shift
