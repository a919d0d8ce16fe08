"""A collector for tests: takes what is exported by OTLP, over gRPC or HTTP, and finds spans in it."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1 import trace_pb2

KINDS = {
    trace_pb2.Span.SPAN_KIND_SERVER: "server",
    trace_pb2.Span.SPAN_KIND_CLIENT: "client",
    trace_pb2.Span.SPAN_KIND_INTERNAL: "internal",
}


@dataclass(frozen=True)
class Span:
    """A span as a reader of traces thinks of it; times in nanoseconds since the epoch."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    attributes: dict[str, Any]
    events: list[tuple[str, int]]
    failed: bool
    """Whether its status is ERROR."""


@dataclass
class Collector:
    """What has arrived so far."""

    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The last points of each metric, by service and name."""
    exemplars: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """Trace ids of a histogram's exemplars, by service and name: each of these is exported once."""

    async def until(self, found: Callable[[Collector], Any], seconds: float = 20.0) -> Any:
        """Waits until `found` finds something, and returns that."""
        try:
            async with asyncio.timeout(seconds):
                while not (result := found(self)):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            shown = "\n".join(f"{s.trace_id[:6]} {s.service} {s.kind} {s.name}" for s in self.spans)
            raise AssertionError(f"not found among:\n{shown}\n{sorted(self.metrics)}") from None
        return result

    async def trace(self, trace_id: str, *names: str) -> Trace:
        """The spans of a trace, once it has one of each of these names."""

        def complete(_: Collector) -> Trace | None:
            trace = Trace([span for span in self.spans if span.trace_id == trace_id])
            return trace if set(names) <= {span.name for span in trace.spans} else None

        found: Trace = await self.until(complete)
        return found

    def take_traces(self, request: trace_service_pb2.ExportTraceServiceRequest) -> None:
        for of_resource in request.resource_spans:
            service = str(values(of_resource.resource.attributes)["service.name"])
            for scope in of_resource.scope_spans:
                self.spans += [_span(service, span) for span in scope.spans]

    def take_metrics(self, request: metrics_service_pb2.ExportMetricsServiceRequest) -> None:
        for of_resource in request.resource_metrics:
            service = str(values(of_resource.resource.attributes)["service.name"])
            for scope in of_resource.scope_metrics:
                for metric in scope.metrics:
                    self.metrics.setdefault(service, {})[metric.name] = metric
                    self.exemplars.setdefault((service, metric.name), set()).update(
                        each.trace_id.hex()
                        for point in metric.histogram.data_points
                        for each in point.exemplars
                    )


@dataclass(frozen=True)
class Trace:
    """The spans of one trace, to be walked from parent to child."""

    spans: list[Span]

    def children(self, span: Span) -> list[Span]:
        below = [each for each in self.spans if each.parent_id == span.span_id]
        return sorted(below, key=lambda each: each.start)

    def below(self, parent_id: str) -> Span:
        """The only span below one that was exported by nobody, such as the client's."""
        found = [span for span in self.spans if span.parent_id == parent_id]
        assert len(found) == 1, [span.name for span in found]
        return found[0]

    def tree(self, span: Span) -> Any:
        """(service, kind, name, children) of a span and all below it, in the order in which they began."""
        return (span.service, span.kind, span.name, [self.tree(child) for child in self.children(span)])


def values(attributes: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in attributes}


def _value(value: AnyValue) -> Any:
    if value.WhichOneof("value") == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, value.WhichOneof("value") or "string_value")


def _span(service: str, span: trace_pb2.Span) -> Span:
    return Span(
        service=service,
        name=span.name,
        kind=KINDS[span.kind],
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=values(span.attributes),
        events=[(event.name, event.time_unix_nano) for event in span.events],
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
    )


@asynccontextmanager
async def grpc_collector() -> AsyncIterator[Collector]:
    collector = Collector()

    class Traces(trace_service_pb2_grpc.TraceServiceServicer):
        async def Export(self, request: Any, context: Any) -> Any:
            collector.take_traces(request)
            return trace_service_pb2.ExportTraceServiceResponse()

    class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
        async def Export(self, request: Any, context: Any) -> Any:
            collector.take_metrics(request)
            return metrics_service_pb2.ExportMetricsServiceResponse()

    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    collector.endpoint = f"http://127.0.0.1:{port}"
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(0)


@contextmanager
def http_collector() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                collector.take_traces(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            else:
                assert self.path == "/v1/metrics"
                collector.take_metrics(metrics_service_pb2.ExportMetricsServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    collector.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
