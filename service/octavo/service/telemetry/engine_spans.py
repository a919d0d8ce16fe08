"""What the engine did for a request, as spans below its door's: made afterwards, from its timeline."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import StatusCode

from octavo.engine import FinishReason
from octavo.service.telemetry.attributes import of_counts
from octavo.service.telemetry.tracing import describe_response, fail, fail_by

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.trace import Span, Tracer

    from octavo.engine.stream import Stream
    from octavo.engine.timeline import Timeline
    from octavo.service.telemetry.attributes import Attributes

FINISH_REASONS = {
    FinishReason.EOS: "stop",
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "cancelled",
    FinishReason.REPETITION: "repetition",
    None: "error",
}


@contextmanager
def described(tracer: Tracer, door: Span, stream: Stream) -> Iterator[None]:
    """Around the reading of a stream: says on its door's span how it ended, and when the engine did what."""
    left = False
    try:
        yield
    except (asyncio.CancelledError, GeneratorExit):
        left = stream.finish_reason is None
        raise
    except Exception as error:
        fail_by(door, error)
        raise
    finally:
        if door.is_recording():
            _describe(tracer, door, stream, FinishReason.CANCELLED if left else stream.finish_reason)


def _describe(tracer: Tracer, door: Span, stream: Stream, reason: FinishReason | None) -> None:
    """Adds `queue`, `prefill` and `decode` below the door's span. reason: None if the request has failed."""
    usage = stream.usage
    counts = of_counts(usage.num_prompt_tokens, usage.num_output_tokens, usage.num_cached_tokens)
    describe_response(door, FINISH_REASONS[reason], counts)
    if reason is FinishReason.CANCELLED:
        fail(door, "CANCELLED")
    below = trace.set_span_in_context(door)
    spans = list(phases(stream.timeline, time.time_ns()))
    for number, (name, start, end) in enumerate(spans):
        span = tracer.start_span(name, below, attributes=_tokens(name, counts), start_time=start)
        for moment in stream.timeline.preemptions:
            if start <= moment < end:
                span.add_event("preemption", timestamp=moment)
        if name == "decode":
            span.add_event("first_token", timestamp=start)
        if number == len(spans) - 1 and reason in (FinishReason.CANCELLED, None):
            _cut_short(span, reason)
        span.end(end)


def phases(timeline: Timeline, now: int) -> Iterator[tuple[str, int, int]]:
    """Name, begin and end of each phase that a request reached; `now` ends the last if the timeline does not.

    No phase ends before it begins, even if the clock was set back in it.
    """
    begins = [
        ("queue", timeline.arrived),
        ("prefill", timeline.scheduled),
        ("decode", timeline.first_token),
    ]
    reached = [(name, begin) for name, begin in begins if begin is not None]
    ends = [begin for _, begin in reached[1:]] + [timeline.finished or now]
    for (name, begin), end in zip(reached, ends, strict=True):
        yield name, begin, max(begin, end)


def _tokens(phase: str, counts: Mapping[str, int]) -> Attributes:
    names = {
        "queue": (),
        "prefill": ("gen_ai.usage.input_tokens", "gen_ai.usage.cache_read.input_tokens"),
        "decode": ("gen_ai.usage.output_tokens",),
    }
    return {name: counts[name] for name in names[phase]}


def _cut_short(span: Span, reason: FinishReason | None) -> None:
    if reason is FinishReason.CANCELLED:
        span.set_attribute("error.type", "CANCELLED")
    else:
        span.set_attribute("error.type", "UNAVAILABLE")
        span.set_status(StatusCode.ERROR)
