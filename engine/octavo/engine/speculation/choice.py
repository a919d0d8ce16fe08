"""Which guesses are worth verifying in a step. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

    from octavo.engine.speculation.step_times import Floats

_ROUNDS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)


@dataclass(frozen=True, slots=True)
class Choice:
    """counts: guesses for each sequence.
    rate: tokens that the step is expected to draw per unit of time.
    given: time that an allowance is asked for.
    """

    counts: list[int]
    rate: float
    given: float = 0.0

    @property
    def total(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a choice may give away: it takes at most `most` longer, by `times`, than its tokens would at
    `rate`, where its guesses are accepted with probabilities `gains` after all."""

    gains: Items[Items[float]]
    times: Floats
    rate: float
    most: float


def choose(
    gains: Items[Items[float]],
    num_decodes: int,
    times: Floats,
    round_time: float,
    least_rate: float,
    allowance: Allowance | None = None,
) -> Choice:
    """How many guesses to make for each sequence, so that a step draws the most tokens per unit of time.

    gains: per sequence the probability that it comes to accept its first, second, … guess; descending.
        Their sum over the guesses made is the expected number of accepted ones, so of any number of
        guesses the best are those of the highest gains.
    num_decodes: all sequences that decode, each of which draws a token anyway.
    times: [all gains or more], of the step with one guess, two guesses, and so on.
    round_time: of guessing once for every sequence.
    least_rate: what must be surpassed; else nothing is guessed.
    """
    counts = [0] * len(gains)
    flat = _flat(gains)
    if not len(flat):
        return Choice(counts, least_rate)
    sober = None if allowance is None else _flat(allowance.gains)
    lengths = [len(row) for row in gains]
    order = np.argsort(-flat, kind="stable")
    depths = np.concatenate([np.arange(length) for length in lengths])[order]
    best, best_rate, best_given = order[:0], least_rate, 0.0
    for rounds in _round_counts(max(lengths), round_time):
        chosen = order[depths < rounds]
        guessing = round_time * rounds
        rates = (num_decodes + flat[chosen].cumsum()) / (times[: len(chosen)] + guessing)
        given = np.zeros(len(chosen))
        if allowance is not None and sober is not None:
            drawn = num_decodes + sober[chosen].cumsum()
            given = allowance.times[: len(chosen)] + guessing - drawn / allowance.rate
            rates[given > allowance.most] = 0.0
        at = int(rates.argmax())
        if rates[at] > best_rate:
            best, best_rate, best_given = chosen[: at + 1], float(rates[at]), float(given[at])
    owners = np.repeat(np.arange(len(gains)), lengths)
    for owner in owners[best].tolist():
        counts[owner] += 1
    return Choice(counts, best_rate, best_given)


def _flat(rows: Items[Items[float]]) -> Floats:
    return np.array([value for row in rows for value in row])


def _round_counts(most: int, round_time: float) -> list[int]:
    """The numbers of rounds to weigh; only the most where a round takes no time."""
    return [*(count for count in _ROUNDS if count < most and round_time), most]
