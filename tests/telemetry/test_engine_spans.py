"""Spans made of a request's timeline, after the fact."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from octavo.engine import EngineStopped, FinishReason, Usage
from octavo.engine.timeline import Timeline
from octavo.service.telemetry.engine_spans import described, phases

WHOLE = Timeline(arrived=10, scheduled=20, first_token=30, last_token=50, finished=60)


def finished(timeline: Timeline, reason: FinishReason | None = FinishReason.EOS) -> Any:
    """What is read of a stream."""
    return SimpleNamespace(timeline=timeline, finish_reason=reason, usage=Usage(7, 3, 4))


def spans_of(stream: Any, error: BaseException | None = None) -> dict[str, ReadableSpan]:
    """The spans of a request whose reading ended with `error`, if that is given."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with (
        tracer.start_as_current_span("door") as door,
        nullcontext() if error is None else pytest.raises(type(error)),
        described(tracer, door, stream),
    ):
        if error is not None:
            raise error
    return {span.name: span for span in exporter.get_finished_spans()}


def test_the_phases_follow_upon_each_other() -> None:
    assert list(phases(WHOLE, now=99)) == [("queue", 10, 20), ("prefill", 20, 30), ("decode", 30, 60)]


def test_a_phase_that_was_not_reached_is_not_told() -> None:
    assert list(phases(Timeline(arrived=10, finished=25), now=99)) == [("queue", 10, 25)]
    assert list(phases(Timeline(arrived=10, scheduled=20), now=99)) == [
        ("queue", 10, 20),
        ("prefill", 20, 99),
    ]


def test_a_clock_that_is_set_back_makes_no_phase_negative() -> None:
    assert list(phases(Timeline(arrived=10, scheduled=5, first_token=30, finished=20), now=99)) == [
        ("queue", 10, 10),
        ("prefill", 5, 30),
        ("decode", 30, 30),
    ]


def test_preemptions_are_events_of_the_phase_in_which_they_happened() -> None:
    timeline = Timeline(
        arrived=10, scheduled=20, first_token=30, last_token=50, preemptions=(25, 35, 40), finished=60
    )
    spans = spans_of(finished(timeline))
    assert [(event.name, event.timestamp) for event in spans["prefill"].events] == [("preemption", 25)]
    assert sorted((event.timestamp, event.name) for event in spans["decode"].events) == [
        (30, "first_token"),
        (35, "preemption"),
        (40, "preemption"),
    ]


def test_tokens_are_told_where_they_were_worked_on() -> None:
    spans = spans_of(finished(WHOLE))
    assert spans["prefill"].attributes == {
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 4,
    }
    assert spans["decode"].attributes == {"gen_ai.usage.output_tokens": 3}


def test_a_failed_engine_is_an_error_of_the_last_phase_and_of_the_door() -> None:
    spans = spans_of(finished(WHOLE, reason=None), EngineStopped("out of luck"))
    for name in ("decode", "door"):
        assert not spans[name].status.is_ok
        assert spans[name].attributes["error.type"] == "UNAVAILABLE"  # type: ignore[index]
    assert spans["door"].attributes["gen_ai.response.finish_reasons"] == ("error",)  # type: ignore[index]


def test_an_output_that_repeats_itself_says_so() -> None:
    spans = spans_of(finished(WHOLE, reason=FinishReason.REPETITION))
    assert spans["door"].attributes["gen_ai.response.finish_reasons"] == ("repetition",)  # type: ignore[index]


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit()])
def test_a_reader_that_leaves_cancels(error: BaseException) -> None:
    spans = spans_of(finished(WHOLE, reason=None), error)
    assert spans["decode"].attributes["error.type"] == "CANCELLED"  # type: ignore[index]
    assert spans["door"].attributes["gen_ai.response.finish_reasons"] == ("cancelled",)  # type: ignore[index]


def test_a_reader_that_leaves_after_the_end_does_not() -> None:
    spans = spans_of(finished(WHOLE), GeneratorExit())
    assert spans["door"].attributes["gen_ai.response.finish_reasons"] == ("stop",)  # type: ignore[index]
    assert "error.type" not in spans["decode"].attributes  # type: ignore[operator]
