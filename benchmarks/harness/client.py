"""Readers of the engine's streams that look at the clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from octavo.engine.async_engine import AsyncEngine
    from octavo.engine.params import SamplingParams


@dataclass(slots=True)
class Trace:
    """What the reader of one request saw.

    first: seconds from its submission to its first token.
    gaps: seconds before each of its other tokens; those that come together share what they took.
    """

    first: float = 0.0
    gaps: list[float] = field(default_factory=list)


async def read(engine: AsyncEngine, prompt: Sequence[int], params: SamplingParams) -> Trace:
    """Submits a request and reads it to its end."""
    trace, last = Trace(), time.perf_counter()
    async for delta in engine.submit(prompt, params):
        now, count = time.perf_counter(), len(delta.token_ids)
        if count:
            if not trace.first:
                trace.first = now - last
                count -= 1
            trace.gaps += [(now - last) / count] * count if count else []
            last = now
    return trace


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all do not exceed: the nearest rank."""
    ordered = sorted(values)
    return ordered[min(max(round(share * len(ordered) + 0.5) - 1, 0), len(ordered) - 1)]
