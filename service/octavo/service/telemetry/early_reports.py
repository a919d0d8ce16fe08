"""What an engine tells before its metrics are there to take it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octavo.engine.observer import Observer, RequestReport, StepReport


class EarlyReports:
    """An `Observer` that keeps what it is told until there is another one."""

    def __init__(self) -> None:
        self._steps: list[StepReport] = []
        self._requests: list[RequestReport] = []

    def step(self, step: StepReport) -> None:
        self._steps.append(step)

    def finished(self, request: RequestReport) -> None:
        self._requests.append(request)

    def pass_on(self, observer: Observer) -> None:
        for step in self._steps:
            observer.step(step)
        for request in self._requests:
            observer.finished(request)
