"""Requests on their way through a gateway: their picks and attempts, as spans and in the metrics."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import get_current
from opentelemetry.trace import SpanKind

from octavo.service.telemetry import attributes as of
from octavo.service.telemetry.context import to_metadata
from octavo.service.telemetry.gateway_metrics import GatewayMetrics
from octavo.service.telemetry.tracing import code_of, describe_request, describe_response, noted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from octavo.service.gateway.pool import Pick
    from octavo.service.telemetry.setup import Telemetry
    from octavo.v1 import gateway_pb2
    from octavo.v1 import inference_pb2 as pb


class GatewayTelemetry:
    """What a gateway tells. Make it on the event loop.

    snapshots: of all models' pods, as `Gateway.WatchPods` tells them.
    """

    def __init__(
        self, telemetry: Telemetry, snapshots: Callable[[], Iterable[gateway_pb2.ModelPods]]
    ) -> None:
        self.tracer = telemetry.tracer
        self.metrics = GatewayMetrics(telemetry, snapshots)

    @contextmanager
    def passage(
        self, model: str, request: pb.GenerateRequest | pb.Submit | pb.Continue, context: Context | None
    ) -> Iterator[Passage]:
        """Around all that is done for a request; the error that leaves it is the request's end.

        context: has the door's span as the current one; the current context if None.
        """
        passage = Passage(self.tracer, self.metrics, model, get_current() if context is None else context)
        describe_request(passage.door, model, request)
        code = "OK"
        try:
            yield passage
        except BaseException as error:
            # A reader who has the last delta may close the generator instead of asking for more.
            code = "OK" if passage.has_ended and isinstance(error, GeneratorExit) else code_of(error)
            raise
        finally:
            passage.end(code)


class Passage:
    """One request. Nothing of this is done for each of its deltas."""

    def __init__(self, tracer: Tracer, metrics: GatewayMetrics, model: str, context: Context) -> None:
        self.door = trace.get_current_span(context)
        self.has_ended = False
        """Whether its last delta has come."""
        self._tracer = tracer
        self._metrics = metrics
        self._model = model
        self._context = context
        self._started = time.monotonic()
        self._num_attempts = 0
        metrics.began(model)

    @contextmanager
    def picking(self) -> Iterator[Callable[[Pick], None]]:
        """Around the wait for a pod; to be called with the pick."""
        span = self._tracer.start_span("pick", self._context)

        def picked(pick: Pick) -> None:
            self._metrics.picked(self._model, pick.pod.address, pick.scores.get("total", 0.0))
            if span.is_recording():
                span.set_attributes(_of_pick(pick))

        with _until_end(span):
            yield picked

    @contextmanager
    def attempt(self, address: str, reason: str = "", num_tokens: int = 0) -> Iterator[list[tuple[str, str]]]:
        """Around a request's time at a pod; yields the metadata that puts the pod's span below this one's.

        reason: why it was moved there, if it was. num_tokens: of its output so far.
        """
        self._num_attempts += 1
        if reason:
            self._metrics.resubmitted(self._model, reason)
        attributes = {
            "octavo.attempt.number": self._num_attempts,
            "octavo.resumed_tokens": num_tokens,
            "rpc.system.name": "grpc",
            **of.of_server(address),
        }
        if reason:
            attributes["octavo.attempt.reason"] = reason
        span = self._tracer.start_span("attempt", self._context, SpanKind.CLIENT, attributes)
        with _until_end(span):
            yield to_metadata(trace.set_span_in_context(span, self._context))

    def first_output(self) -> None:
        self._metrics.first_output(self._model, time.monotonic() - self._started)

    def last_output(self, finish_reason: int, usage: pb.Usage) -> None:
        self.has_ended = True
        describe_response(self.door, of.FINISH_REASONS[finish_reason], of.of_usage(usage))

    def gave_up(self) -> None:
        """The budget for retries is spent."""
        self._metrics.gave_up(self._model)

    def end(self, code: str) -> None:
        self._metrics.ended(self._model, code, time.monotonic() - self._started)


@contextmanager
def _until_end(span: Span) -> Iterator[None]:
    """Ends a span that is not the current one: a generator's parts may run in different contexts."""
    with noted(span):
        yield
    span.end()


def _of_pick(pick: Pick) -> of.Attributes:
    scores: of.Attributes = {f"octavo.pick.score.{name}": value for name, value in pick.scores.items()}
    return {**scores, "octavo.pick.candidates": pick.num_candidates, "octavo.pick.pod": pick.pod.address}
