"""Spans of the requests at a door: how they begin, what they say, and how they end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from google.rpc import code_pb2
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from octavo.service.rpc.status import status_of
from octavo.service.telemetry import attributes as of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from octavo.service.telemetry.attributes import Attributes
    from octavo.v1 import inference_pb2 as pb

    Request = pb.GenerateRequest | pb.Submit | pb.Continue

# What a server is to blame for (semantic conventions for gRPC); other codes are of the client's making.
FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


def start_server_span(tracer: Tracer, name: str, context: Context, attributes: Attributes) -> Span:
    """A SERVER span, below the client's if `context` has one; not the current one yet, and to be ended."""
    return tracer.start_span(name, context, SpanKind.SERVER, attributes)


class current:  # noqa: N801  # as contextlib.suppress is one
    """Makes a span the current one, for logs and for spans below it, and notes the error that leaves this.

    The span ends with it, if not before; with `ends=False`, only if an error leaves. A class, since each
    request passes several: a generator in one of OpenTelemetry's takes three times as long.
    """

    __slots__ = ("_ends", "_span", "_token")

    def __init__(self, span: Span, *, ends: bool = True) -> None:
        self._span = span
        self._ends = ends

    def __enter__(self) -> Span:
        self._token = contexts.attach(trace.set_span_in_context(self._span))
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        contexts.detach(self._token)
        if error is not None:
            fail_by(self._span, error)
        if (error is not None or self._ends) and self._span.is_recording():
            self._span.end()


def abandon(span: Span) -> None:
    """Ends a span that nobody has ended, as one of a cancelled request."""
    if span.is_recording():
        fail(span, "CANCELLED")
        span.end()


def describe_request(span: Span, model: str, request: Request) -> None:
    """Names a door's span after what is asked for, and says what that is."""
    if not span.is_recording():
        return
    span.update_name(of.span_name(of.operation(request.prompt), model))
    span.set_attributes(of.of_request(model, request.prompt, request.sampling))
    resume = request.resume
    if resumed := sum(len(told.token_ids) for told in (resume, *resume.outputs)):
        span.set_attribute("octavo.resumed_tokens", resumed)


def describe_response(span: Span, finish_reason: str, usage: Mapping[str, int]) -> None:
    """Says on a door's span how the output ended; if it asked for several, what they are together."""
    if not span.is_recording():
        return
    before: Mapping[str, Any] = getattr(span, "attributes", None) or {}
    reasons = [*before.get("gen_ai.response.finish_reasons", ()), finish_reason]
    sums: Attributes = {name: before.get(name, 0) + count for name, count in usage.items()}
    span.set_attributes({"gen_ai.response.finish_reasons": reasons, **sums})


def fail(span: Span, code: str, message: str = "") -> None:
    """Notes on a span that it ended with a gRPC code other than OK."""
    span.set_attribute("error.type", code)
    if code in FAULTS:
        span.set_status(StatusCode.ERROR, message)


def fail_by(span: Span, error: BaseException) -> None:
    """The same for an error as it is raised inside, or as a pod answered it."""
    if not span.is_recording() or isinstance(error, grpc.aio.AbortError):
        return  # an AbortError knows no code; who sees it leave has noted it
    message = ""
    if isinstance(error, grpc.aio.AioRpcError):
        message = error.details() or ""
    elif isinstance(error, Exception):
        message = status_of(error).message
    fail(span, code_of(error), message)


def fail_with(span: Span, status: pb.Status) -> None:
    fail(span, name_of(status.code), status.message)


def code_of(error: BaseException) -> str:
    """The gRPC code that an error is told by; what ends a task or a generator from outside is CANCELLED."""
    if isinstance(error, grpc.aio.AioRpcError):
        code: str = error.code().name
        return code
    return name_of(status_of(error).code) if isinstance(error, Exception) else "CANCELLED"


def name_of(code: int) -> str:
    name: str = code_pb2.Code.Name(code_pb2.Code.ValueType(code))
    return name
