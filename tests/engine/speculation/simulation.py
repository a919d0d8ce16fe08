"""An engine without a model: steps take what a curve says, guesses are right with some probability."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from octavo.engine.speculation.governor import Governor
from octavo.engine.speculation.proposer import Outlook

Curve = Callable[[int], float]
"""Seconds of a step by its tokens."""
Acceptance = Callable[[int, int], float]
"""How likely a guess for a sequence's token at a position is right."""

MOST = 8


def flat_then_linear(flat: int) -> Curve:
    """Memory-bound up to `flat` tokens, compute-bound beyond: roofs meet there."""
    return lambda tokens: 0.03 * max(1.0, tokens / flat)


def affine(fixed: float, each: float) -> Curve:
    return lambda tokens: fixed + each * tokens


CURVES: dict[str, Curve] = {
    "compute-bound": affine(0.0, 0.03),
    "cpu, flat to 4": flat_then_linear(4),
    "cpu, flat to 8": flat_then_linear(8),
    "gpu, flat to 64": flat_then_linear(64),
    "affine": affine(0.02, 0.01),
    "dear second token": lambda tokens: 0.03 if tokens == 1 else 0.05 + 0.002 * tokens,
}


@dataclass(kw_only=True)
class World:
    """round_seconds: of guessing once for all. lag_seconds: of a token that must be computed first."""

    curve: Curve
    batch: int
    acceptance: Acceptance
    noise: float = 0.0
    prompt: int = 0
    length: int = 10**9
    round_seconds: float = 0.0
    lag_seconds: float = 0.0

    def speedup(self, tokens: int, fixed: int | None = None, seed: int = 0) -> float:
        """Tokens per second, over that without guesses, until every place has drawn as many `tokens`.

        fixed: guesses in every step, instead of a governor's choice.
        """
        draw = random.Random(seed)
        governor = Governor(1) if fixed is None else None
        keys: list[object] = [object() for _ in range(self.batch)]
        drawn, began, known = [0] * self.batch, [0] * self.batch, [0] * self.batch
        seconds = 0.0
        while min(drawn) < tokens:
            lags = [self.prompt + drawn[i] - began[i] - known[i] for i in range(self.batch)]
            lags = [max(lag - 2, 0) if self.lag_seconds else 0 for lag in lags]
            outlooks = [(key, Outlook((0,) * MOST, lag)) for key, lag in zip(keys, lags, strict=True)]
            counts = [fixed or 0] * self.batch if governor is None else governor.plan(outlooks)
            lag = sum(lag for lag, count in zip(lags, counts, strict=True) if count)
            guessing = self.round_seconds * max(counts) + self.lag_seconds * lag
            size = self.batch + sum(counts)
            step = self.curve(size) * draw.lognormvariate(-(self.noise**2) / 2, self.noise)
            seconds += guessing + step
            if governor is not None:
                governor.proposed(max(counts), lag, guessing)
            for i, count in enumerate(counts):
                right = 0
                while right < count and draw.random() < self.acceptance(i, drawn[i] + right):
                    right += 1
                if governor is not None and count:
                    governor.verified(keys[i], count, right)
                if count:
                    known[i] = self.prompt + drawn[i] - began[i] + right
                drawn[i] += right + 1
                if drawn[i] - began[i] >= self.length:
                    keys[i], began[i], known[i] = self._next(governor, keys[i]), drawn[i], 0
            if governor is not None:
                governor.timed(size, self.batch, step)
        return sum(drawn) / seconds * self.curve(self.batch) / self.batch

    def best_fixed(self, tokens: int) -> float:
        return max(self.speedup(tokens, fixed) for fixed in range(MOST + 1))

    def _next(self, governor: Governor | None, key: object) -> object:
        if governor is not None:
            governor.forget(key)
        return object()


def always(rate: float) -> Acceptance:
    return lambda sequence, position: rate
