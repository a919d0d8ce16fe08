"""Requests of the OpenAI API as spans: an ASGI middleware, for a pod as for a gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.trace import StatusCode

from octavo.service.telemetry.attributes import of_server
from octavo.service.telemetry.context import from_headers
from octavo.service.telemetry.tracing import current, start_server_span

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

    from octavo.service.openai.exchange import Application, Exchange, Receive, Scope, Send
    from octavo.service.telemetry.attributes import Attributes

TRACED = ("/v1/", "/tokenize", "/detokenize")
"""`/health` and `/metrics` are asked for all the time, and by nobody who would look at a span."""


class TracedRequests:
    """A SERVER span for each request of the API, the current one while it is answered."""

    def __init__(self, app: Application, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(TRACED):
            return await self._app(scope, receive, send)
        context = from_headers(scope["headers"])
        span = start_server_span(self._tracer, scope["method"], context, of_scope(scope))
        with current(span):
            try:
                await self._app(scope, receive, send)
            finally:
                if span.is_recording():
                    _describe(span, scope)
        return None


def of_scope(scope: Scope) -> Attributes:
    """What is known of a request before it is read."""
    headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
    attributes: Attributes = {
        "http.request.method": scope["method"],
        "url.scheme": scope["scheme"],
        "url.path": scope["path"],
        "network.protocol.version": scope["http_version"],
    }
    if client := scope.get("client"):
        attributes |= {"client.address": client[0], "client.port": client[1]}
    if host := headers.get("host"):
        attributes |= of_server(host)
    if agent := headers.get("user-agent"):
        attributes["user_agent.original"] = agent
    return attributes


def _describe(span: Span, scope: Scope) -> None:
    """Notes what came of a request. The application leaves that in its scope; no message is looked at."""
    if route := scope.get("route"):
        span.set_attribute("http.route", route)
        if getattr(span, "name", "") == scope["method"]:  # no request for a model has named it
            span.update_name(f"{scope['method']} {route}")
    exchange: Exchange | None = scope.get("exchange")
    if exchange is None:
        return
    if exchange.status is not None:
        span.set_attribute("http.response.status_code", int(exchange.status))
        if exchange.status >= 400:
            span.set_attribute("error.type", str(int(exchange.status)))
        if exchange.status >= 500:
            span.set_status(StatusCode.ERROR)
    if not exchange.ended:  # the client has left
        span.set_attribute("error.type", "CANCELLED")
