"""Where a request comes in: the trace that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import propagate, trace
from opentelemetry.context import get_current

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context


def context_of(headers: Mapping[str, str]) -> Context:
    """The current one if it has a span, that of a middleware around the application; else the client's."""
    context = get_current()
    if trace.get_current_span(context).get_span_context().is_valid:
        return context
    return propagate.extract(headers, context)
