"""The trace that a request belongs to, as it comes in and goes out: W3C's, or what OTEL_PROPAGATORS says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import propagate
from opentelemetry.context import Context, get_current
from opentelemetry.trace import get_current_span

if TYPE_CHECKING:
    from collections.abc import Iterable

    from octavo.v1 import engine_pb2
    from octavo.v1 import inference_pb2 as pb


def from_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> Context:
    """The context of a gRPC call, from its invocation metadata."""
    return _extracted({key: value for key, value in metadata or () if isinstance(value, str)})


def from_headers(headers: Iterable[tuple[bytes, bytes]]) -> Context:
    """The context of an HTTP request, from the headers of its ASGI scope."""
    return _extracted({key.decode("latin-1").lower(): value.decode("latin-1") for key, value in headers})


def from_command(command: pb.SessionRequest | engine_pb2.RelayRequest) -> Context:
    """The context of a session's command: its own, or else the current one, which is the stream's."""
    if not command.traceparent:
        return get_current()
    return _extracted({"traceparent": command.traceparent, "tracestate": command.tracestate})


def to_metadata(context: Context) -> list[tuple[str, str]]:
    """Metadata for a gRPC call that belongs to `context`; empty if that has no trace."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    return list(carrier.items())


def to_command(context: Context) -> tuple[str, str]:
    """traceparent and tracestate of a session's command that belongs to `context`; empty without a trace."""
    if not get_current_span(context).get_span_context().is_valid:
        return "", ""
    carrier = dict(to_metadata(context))
    return carrier.get("traceparent", ""), carrier.get("tracestate", "")


def _extracted(carrier: dict[str, str]) -> Context:
    # Not into the current context: what a stream has there belongs to another request.
    return propagate.extract(carrier, Context())
