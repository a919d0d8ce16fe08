"""Spans of the requests at a door: how they begin, what they say, and how they end."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
from google.rpc import code_pb2
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from octavo.service.rpc.status import status_of
from octavo.service.telemetry import attributes as of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from octavo.service.telemetry.attributes import Attributes
    from octavo.v1 import inference_pb2 as pb

# What a server is to blame for (semantic conventions for gRPC); other codes are of the client's making.
FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


def start_server_span(tracer: Tracer, name: str, context: Context, attributes: Attributes) -> Span:
    """A SERVER span, below the client's if `context` has one; not the current one yet, and to be ended."""
    return tracer.start_span(name, context, SpanKind.SERVER, attributes)


@contextmanager
def current(span: Span) -> Iterator[Span]:
    """Makes a span the current one, for logs and for spans below it, and ends it; an error is noted on it."""
    with trace.use_span(span, record_exception=False, set_status_on_exception=False):
        try:
            yield span
        except (asyncio.CancelledError, GeneratorExit):
            fail(span, "CANCELLED")
            raise
        except grpc.aio.AbortError:
            raise  # it knows no code; who aborts a call has noted that
        except Exception as error:
            fail_by(span, error)
            raise
        finally:
            span.end()


def describe_request(
    span: Span, model: str, prompt: pb.Prompt, sampling: pb.SamplingParams, resume: pb.Resumption
) -> None:
    """Names a door's span after what is asked for, and says what that is."""
    if not span.is_recording():
        return
    span.update_name(of.span_name(of.operation(prompt), model))
    span.set_attributes(of.of_request(model, prompt, sampling))
    if resume.token_ids:
        span.set_attribute("octavo.resumed_tokens", len(resume.token_ids))


def describe_response(span: Span, finish_reasons: Sequence[str], usage: Attributes) -> None:
    if span.is_recording():
        span.set_attributes({"gen_ai.response.finish_reasons": list(finish_reasons), **usage})


def fail(span: Span, code: str, message: str = "") -> None:
    """Notes on a span that its call ended with a gRPC code other than OK."""
    if not span.is_recording():
        return
    span.set_attributes({"rpc.response.status_code": code, "error.type": code})
    if code in FAULTS:
        span.set_status(StatusCode.ERROR, message)


def fail_by(span: Span, error: Exception) -> None:
    """The same for an error as it is raised inside, or as a pod answered it."""
    if not span.is_recording():
        return
    if isinstance(error, grpc.RpcError):
        code = error.code()
        fail(span, code.name if code else "UNKNOWN", error.details() or "")
    else:
        fail_with(span, status_of(error))


def fail_with(span: Span, status: pb.Status) -> None:
    fail(span, code_pb2.Code.Name(code_pb2.Code.ValueType(status.code)), status.message)
