"""When what happened to one request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Timeline:
    """Moments of one request, in nanoseconds since the epoch (time.time_ns); None for what has not happened.

    The engine's thread writes it, at the pace of steps: all that happens in a step has the time of its
    beginning (scheduled, preemptions) or of its end (first_token, last_token, finished).

    arrived: it was submitted.
    scheduled: a step took it up for the first time. Before that it was queued, after that it is in prefill.
    first_token: the first token that this engine drew. What a resumed request brought with it does not count.
    last_token: the latest token so far.
    preemptions: each time it lost its blocks and had to be computed again.
    finished: it ended, in whatever way: its last token, a stop string found in its text, a cancel, a failure.
    """

    arrived: int
    scheduled: int | None = None
    first_token: int | None = None
    last_token: int | None = None
    preemptions: tuple[int, ...] = ()
    finished: int | None = None
