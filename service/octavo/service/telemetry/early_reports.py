"""What an engine tells before its metrics are there to take it."""

from __future__ import annotations

from contextvars import Context, copy_context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octavo.engine.observer import Observer, RequestReport, StepReport


class EarlyReports:
    """An `Observer` that keeps what it is told until there is another one.

    A request is told with the context it ended in, whose trace is to be an exemplar of it.
    """

    def __init__(self) -> None:
        self._steps: list[StepReport] = []
        self._requests: list[tuple[Context, RequestReport]] = []

    def step(self, step: StepReport) -> None:
        self._steps.append(step)

    def finished(self, request: RequestReport) -> None:
        self._requests.append((copy_context(), request))

    def pass_on(self, observer: Observer) -> None:
        for step in self._steps:
            observer.step(step)
        for context, request in self._requests:
            context.run(observer.finished, request)
