"""Logs: one line for each record, as JSON or as text, with the trace that it belongs to."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext

from octavo.service.telemetry.logs import configure

SPAN = NonRecordingSpan(SpanContext(trace_id=0xABC, span_id=0xD, is_remote=True))


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Gives the test's process back its own logging."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers.clear()  # pytest's, which would be closed otherwise
    yield
    root.handlers[:], root.level = before


def logged(log_format: str | None, *, terminal: bool = False) -> io.StringIO:
    stream = io.StringIO()
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    configure("info", log_format, stream)  # type: ignore[arg-type]
    return stream


def test_json_has_time_level_logger_and_message() -> None:
    stream = logged("json")
    logging.getLogger("octavo.some").warning("%d pods are lost, “all”", 3)
    entry = json.loads(stream.getvalue())
    assert entry.pop("time").endswith("Z")
    assert entry == {"level": "warning", "logger": "octavo.some", "message": "3 pods are lost, “all”"}


def test_within_a_span_json_has_its_ids() -> None:
    stream = logged("json")
    with trace.use_span(SPAN):
        logging.getLogger("octavo").info("served")
    entry = json.loads(stream.getvalue())
    assert entry["trace_id"] == "00000000000000000000000000000abc"
    assert entry["span_id"] == "000000000000000d"


def test_an_exception_stays_on_its_line() -> None:
    stream = logged("json")
    try:
        raise RuntimeError("out of luck")
    except RuntimeError:
        logging.getLogger("octavo").exception("unexpected error")
    [line] = stream.getvalue().splitlines()
    assert "RuntimeError: out of luck" in json.loads(line)["exception"]


def test_what_is_given_as_extra_is_there_under_its_name() -> None:
    stream = logged("json")
    logging.getLogger("octavo").info("picked", extra={"pod": "10.0.0.7:50051"})
    assert json.loads(stream.getvalue())["pod"] == "10.0.0.7:50051"


def test_text_has_the_trace_id_at_its_end() -> None:
    stream = logged("text")
    logging.getLogger("octavo").info("before")
    with trace.use_span(SPAN):
        logging.getLogger("octavo").info("within")
    before, within = stream.getvalue().splitlines()
    assert before.endswith("INFO    octavo: before")
    assert within.endswith("INFO    octavo: within [trace_id=00000000000000000000000000000abc]")


def test_unless_told_it_is_text_on_a_terminal_and_json_elsewhere() -> None:
    stream = logged(None, terminal=True)
    logging.getLogger("octavo").info("here")
    assert stream.getvalue().endswith("octavo: here\n")
    stream = logged(None)
    logging.getLogger("octavo").info("here")
    assert json.loads(stream.getvalue())["message"] == "here"


def test_libraries_log_in_the_same_way() -> None:
    stream = logged("json")
    logging.getLogger("uvicorn.error").error("started", extra={"color_message": "[started]"})
    entry = json.loads(stream.getvalue())
    assert (entry["logger"], entry["message"]) == ("uvicorn.error", "started")
    assert "color_message" not in entry


def test_the_level_is_the_least_that_is_logged() -> None:
    stream = io.StringIO()
    configure("warning", "text", stream)
    logging.getLogger("octavo").info("not this")
    assert stream.getvalue() == ""
