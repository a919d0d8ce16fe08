"""Calls of `Inference` as spans: an interceptor for servers, of a pod as of a gateway."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry import context as contexts

from octavo.service.telemetry import attributes as of
from octavo.service.telemetry.context import from_command, from_metadata
from octavo.service.telemetry.tracing import current, fail, start_server_span
from octavo.v1 import engine_pb2
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from octavo.service.telemetry.attributes import Attributes

INFERENCE = pb.DESCRIPTOR.services_by_name["Inference"].full_name
SESSION = f"/{INFERENCE}/Session"
RELAY = f"{engine_pb2.DESCRIPTOR.services_by_name['Engine'].full_name}/Relay"
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")

Call = grpc.aio.ServicerContext[Any, Any]
Behaviour = Any


class TracedCalls(grpc.aio.ServerInterceptor):
    """A SERVER span for each call of Inference but Session, whose requests have spans of their own.

    Handlers find that span as the current one, and in a Session the client's context. To be the first of a
    server's interceptors, so that it sees with which status a call leaves.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(f"/{INFERENCE}/"):
            return handler
        context = from_metadata(handler_call_details.invocation_metadata)
        kind = next(kind for kind in KINDS if getattr(handler, kind))
        behaviour = getattr(handler, kind)
        wrapped = (
            _within(context, behaviour) if method == SESSION else self._traced(method, context, behaviour)
        )
        return handler._replace(**{kind: wrapped})

    def _traced(self, method: str, context: Context, behaviour: Behaviour) -> Behaviour:
        name = method.removeprefix("/")

        async def traced(request: Any, call: Call) -> Any:
            span = start_server_span(self._tracer, name, context, of_call(name, call))
            with current(span):
                code = "CANCELLED"
                try:
                    answer = await behaviour(request, call)
                    code = "OK"
                    return answer
                except grpc.aio.AbortError:
                    code = call.code().name
                    fail(span, code, call.details())
                    raise
                finally:
                    span.set_attribute("rpc.response.status_code", code)

        return traced


class SessionDoor:
    """A SERVER span for each request of one Session: below its command's trace, or else the stream's."""

    def __init__(self, tracer: Tracer, call: Call) -> None:
        self._tracer = tracer
        self._attributes = of_call(SESSION.removeprefix("/"), call)

    @contextmanager
    def entered(self, command: pb.SessionRequest) -> Iterator[Span]:
        """Around what begins a request; the span goes on after that, unless it fails."""
        attributes = {**self._attributes, "octavo.request_id": command.request_id}
        name = SESSION.removeprefix("/")
        span = start_server_span(self._tracer, name, from_command(command), attributes)
        with current(span, ends=False):
            yield span


class RelayDoor:
    """A SERVER span for each request that a gateway passes on, below its attempt there."""

    def __init__(self, tracer: Tracer, call: Call) -> None:
        self._tracer = tracer
        self._attributes = of_call(RELAY, call)

    @contextmanager
    def entered(self, command: engine_pb2.RelayRequest) -> Iterator[Span]:
        """Around all of a request."""
        span = start_server_span(self._tracer, RELAY, from_command(command), self._attributes)
        with current(span):
            yield span


def of_call(method: str, call: Call) -> Attributes:
    return {"rpc.system.name": "grpc", "rpc.method": method, **of.of_peer(call.peer())}


def _within(context: Context, behaviour: Behaviour) -> Behaviour:
    async def within(requests: Any, call: Call) -> Any:
        # Nothing to detach: gRPC runs each call in a task, and so in a context, of its own.
        contexts.attach(context)
        return await behaviour(requests, call)

    return within
