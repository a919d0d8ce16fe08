"""How long guessing takes, learned from the guesses that are made."""

from __future__ import annotations

from octavo.engine.speculation.measured import Measured

UNKNOWN_TOKEN = 1 / 64
"""What a token to catch up with is taken to cost before any was measured."""


class ProposalTimes:
    """In units of the level of `StepTimes`, so that a busy machine looks no different.

    `now` is always the number of steps measured.
    """

    def __init__(self) -> None:
        self._round = Measured()
        self._token = Measured()

    def round(self, now: int) -> float:
        """One more guess for every sequence that gets one. What was not measured lately counts for less
        and less, so that it is tried again in the end."""
        return self._round.value * min(self._round.trust(now), 1.0)

    def catching_up(self, lag: int) -> float:
        """Computing `lag` tokens of a sequence before anything is guessed for it."""
        return lag * (self._token.value or UNKNOWN_TOKEN)

    def measure(self, rounds: int, lag: int, time: float, now: int) -> float:
        """Learns from guessing in `rounds` rounds and catching up with `lag` tokens; how much of the
        time was catching up."""
        if lag:
            time = max(time - rounds * self._round.value, 0.0)
            self._token.add(time / lag, now)
            return time
        if rounds:
            self._round.add(time / rounds, now)
        return 0.0
