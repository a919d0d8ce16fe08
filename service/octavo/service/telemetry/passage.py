"""Requests on their way through a gateway: their picks and attempts, as spans and in the metrics."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from opentelemetry import trace
from opentelemetry.context import get_current
from opentelemetry.trace import SpanKind

from octavo.service.telemetry import attributes as of
from octavo.service.telemetry.gateway_metrics import GatewayMetrics
from octavo.service.telemetry.tracing import (
    abandon,
    code_of,
    describe_request,
    describe_response,
    fail,
    fail_by,
    fail_with,
    name_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from octavo.service.gateway.pool import Pick
    from octavo.service.telemetry.setup import Telemetry
    from octavo.service.telemetry.tracing import Request
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
        self._metrics = GatewayMetrics(telemetry, snapshots)

    def passage(self, model: str, request: Request, context: Context | None = None) -> Passage:
        """A request begins. context: with its door's span as the current one; the current context if None."""
        passage = Passage(self.tracer, self._metrics, model, get_current() if context is None else context)
        describe_request(passage.door, model, request)
        return passage


class Picking:
    """The span of a pick, and its count."""

    __slots__ = ("_metrics", "_model", "_span")

    def __init__(self, span: Span, metrics: GatewayMetrics, model: str) -> None:
        self._span = span
        self._metrics = metrics
        self._model = model

    def __call__(self, pick: Pick) -> None:
        """This is the pick."""
        self._metrics.picked(self._model, pick.pod.address, pick.scores["total"])
        if self._span.is_recording():
            self._span.set_attributes(_of_pick(pick))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is not None:
            fail_by(self._span, error)
        self._span.end()


class Passage:
    """One request. It picks a pod, arrives there, and leaves again if there is trouble; at last it ends.

    Nothing of this is done for each of its deltas. As a context manager it ends with the error that leaves.
    """

    def __init__(self, tracer: Tracer, metrics: GatewayMetrics, model: str, context: Context) -> None:
        self.door = trace.get_current_span(context)
        self._tracer = tracer
        self._metrics = metrics
        self._model = model
        self._context = context
        self._attempt: Span | None = None
        self._num_attempts = 0
        self._reason = ""
        self._started = time.monotonic()
        self._ended = False
        metrics.began(model)

    def picking(self) -> Picking:
        """Around the wait for a pod; to be called with the pick."""
        span = self._tracer.start_span("pick", self._context)
        return Picking(span, self._metrics, self._model)

    def picked(self, pick: Pick) -> None:
        """A pod was there at once."""
        with self.picking() as picked:
            picked(pick)

    def arrives(self, address: str, num_tokens: int) -> Context:
        """It is sent to a pod, with so many tokens of output to go on from; the context for the pod."""
        self._num_attempts += 1
        attributes: of.Attributes = {
            "octavo.attempt.number": self._num_attempts,
            "octavo.resumed_tokens": num_tokens,
            "rpc.system.name": "grpc",
            **of.of_server(address),
        }
        if self._reason:
            attributes["octavo.attempt.reason"] = self._reason
            self._metrics.resubmitted(self._model, self._reason)
        self._attempt = self._tracer.start_span("attempt", self._context, SpanKind.CLIENT, attributes)
        return trace.set_span_in_context(self._attempt, self._context)

    def leaves(self, reason: str, status: pb.Status) -> None:
        """The pod cannot go on with it: why, in a word and in the pod's."""
        self._reason = reason
        if self._attempt is not None:
            fail_with(self._attempt, status)
            self._attempt.end()
            self._attempt = None

    def first_output(self) -> None:
        self._metrics.first_output(self._model, time.monotonic() - self._started)

    def gave_up(self) -> None:
        """It may not be tried again."""
        self._metrics.gave_up(self._model)

    def finished(self, finish_reasons: Sequence[int], usage: pb.Usage) -> None:
        """Its last delta has come. finish_reasons: of each output, in order; usage: of all together."""
        reasons = [of.FINISH_REASONS[reason] for reason in finish_reasons]
        for number, reason in enumerate(reasons):
            describe_response(self.door, reason, {} if number else of.of_usage(usage))
        cancelled = "cancelled" in reasons
        if cancelled:
            for span in filter(None, (self._attempt, self.door)):
                fail(span, "CANCELLED")
        self._end("CANCELLED" if cancelled else "OK")

    def failed(self, status: pb.Status) -> None:
        for span in filter(None, (self._attempt, self.door)):
            fail_with(span, status)
        self._end(name_of(status.code))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._attempt is not None and error is not None and not self._ended:
            fail_by(self._attempt, error)
        self._end("OK" if error is None else code_of(error))

    def abandoned(self) -> None:
        """Its client has left, if it has not ended before."""
        if self._attempt is not None:
            abandon(self._attempt)
        self._end("CANCELLED")

    def _end(self, code: str) -> None:
        if self._ended:
            return
        self._ended = True
        if self._attempt is not None and self._attempt.is_recording():
            self._attempt.end()
        self._metrics.ended(self._model, code, time.monotonic() - self._started)


def _of_pick(pick: Pick) -> of.Attributes:
    scores: of.Attributes = {f"octavo.pick.score.{name}": value for name, value in pick.scores.items()}
    return {**scores, "octavo.pick.candidates": pick.num_candidates, "octavo.pick.pod": pick.pod.address}
