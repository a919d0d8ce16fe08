"""A gateway's metrics: of requests as their clients see them, and of the pods behind them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from octavo.service.telemetry import definitions as of
from octavo.service.telemetry.instruments import Instruments
from octavo.service.telemetry.loop import OnLoop
from octavo.v1 import gateway_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from octavo.service.telemetry.setup import Telemetry

Snapshots = list[gateway_pb2.ModelPods]

STATES = ("connecting", "serving", "draining", "ejected")


class GatewayMetrics:
    """Counts what happens to requests, and reads the state of pods. Make it on the event loop.

    Counts are recorded on the loop's next turn, ten µs or more each: while a request is with its pod or
    client, instead of on its way there.

    snapshots: of all models, as `Gateway.WatchPods` tells them.
    """

    def __init__(
        self, telemetry: Telemetry, snapshots: Callable[[], Iterable[gateway_pb2.ModelPods]]
    ) -> None:
        make = Instruments(telemetry)
        self._soon = asyncio.get_running_loop().call_soon
        self._requests = make.counter(of.GATEWAY_REQUESTS)
        self._picks = make.counter(of.GATEWAY_PICKS)
        self._scores = make.histogram(of.GATEWAY_PICK_SCORE)
        self._resubmissions = make.counter(of.GATEWAY_RESUBMISSIONS)
        self._exhausted = make.counter(of.GATEWAY_RETRIES_EXHAUSTED)
        self._first_output = make.histogram(of.GATEWAY_FIRST_TOKEN)
        self._duration = make.histogram(of.GATEWAY_DURATION)
        self._in_flight: Counter[str] = Counter()
        in_flight = OnLoop(self._in_flight.copy)
        make.observe(of.GATEWAY_IN_FLIGHT, lambda: [(n, _labels(model)) for model, n in in_flight().items()])
        models: OnLoop[Snapshots] = OnLoop(lambda: list(snapshots()))
        make.observe(of.GATEWAY_WAITING, lambda: [(each.waiting, _labels(each.model)) for each in models()])
        make.observe(of.GATEWAY_PODS, lambda: _pods(models()))

    def began(self, model: str) -> None:
        self._in_flight[model] += 1

    def ended(self, model: str, code: str, seconds: float) -> None:
        self._in_flight[model] -= 1
        self._soon(self._requests.add, 1, {"model_name": model, "code": code})
        self._soon(self._duration.record, seconds, _labels(model))

    def first_output(self, model: str, seconds: float) -> None:
        self._soon(self._first_output.record, seconds, _labels(model))

    def picked(self, model: str, address: str, score: float) -> None:
        self._soon(self._picks.add, 1, {"model_name": model, "pod": address})
        self._soon(self._scores.record, max(score, 0.0), _labels(model))

    def resubmitted(self, model: str, reason: str) -> None:
        self._soon(self._resubmissions.add, 1, {"model_name": model, "reason": reason})

    def gave_up(self, model: str) -> None:
        self._soon(self._exhausted.add, 1, _labels(model))


def _labels(model: str) -> dict[str, str]:
    return {"model_name": model}


def _pods(models: Snapshots) -> Iterable[tuple[float, dict[str, str]]]:
    """How many pods of each model are in each state; states without any are told too, as zero."""
    for each in models:
        counts = Counter(gateway_pb2.PodState.Name(pod.state) for pod in each.pods)
        for state in STATES:
            yield counts[f"POD_STATE_{state.upper()}"], {**_labels(each.model), "state": state}
