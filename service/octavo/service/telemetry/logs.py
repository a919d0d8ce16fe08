"""Logs of all that runs in a process, libraries too: one format, and the trace that each line belongs to."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import IO, Literal

from opentelemetry import trace

LogFormat = Literal["text", "json"]
TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def configure(level: str, log_format: LogFormat | None, stream: IO[str] | None = None) -> None:
    """Logs to `stream`, stderr by default: as text if that is a terminal and as JSON if not, unless told.

    Replaces every handler, so that there is one line for each record. uvicorn is to be run with
    log_config=None: its loggers then end up here, too.
    """
    stream = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(stream)
    chosen = log_format or ("text" if stream.isatty() else "json")
    handler.setFormatter(JsonFormatter() if chosen == "json" else TextFormatter(TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger and message.

    Where there is a current span also trace_id and span_id, where there is an error exception, and what was
    given as `extra` under its own names.
    """

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": _rfc_3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **current_ids(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        entry |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        return json.dumps(entry, ensure_ascii=False, default=str)


def _rfc_3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """A line for people, with the trace id at its end where there is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        line = super().formatMessage(record)
        ids = current_ids()
        return f"{line} [trace_id={ids['trace_id']}]" if ids else line


def current_ids() -> dict[str, str]:
    """trace_id and span_id of the current span; of the caller's, where no span is made here."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    return {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}


_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}
