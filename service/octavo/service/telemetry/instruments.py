"""Instruments made from their definitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Observation

from octavo.service.telemetry.definitions import Definition, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.metrics import Counter, Histogram

    from octavo.service.telemetry.setup import Telemetry


class Instruments:
    """Makes the instruments of one process; `max_model_len` bounds its histograms of token counts."""

    def __init__(self, telemetry: Telemetry, max_model_len: int = 0) -> None:
        self._telemetry = telemetry
        self._meter = telemetry.meter
        self._max_model_len = max_model_len

    def counter(self, definition: Definition) -> Counter:
        assert definition.kind is Kind.COUNTER
        return self._meter.create_counter(definition.name, definition.unit, definition.description)

    def histogram(self, definition: Definition, labels: Mapping[str, str] | None = None) -> Histogram:
        """labels: of a series that the page shows from the beginning, with zeros."""
        assert definition.kind is Kind.HISTOGRAM
        bounds = definition.bounds(self._max_model_len)
        if labels is not None:
            self._telemetry.page.expect(definition, bounds, labels)
        return self._meter.create_histogram(
            definition.name,
            definition.unit,
            definition.description,
            explicit_bucket_boundaries_advisory=bounds,
        )

    def observe(
        self, definition: Definition, read: Callable[[], Iterable[tuple[float, Mapping[str, str]]]]
    ) -> None:
        """Has values with their labels read whenever the metrics are collected, in whichever thread."""

        def callback(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value, labels) for value, labels in read()]

        about = (definition.name, [callback], definition.unit, definition.description)
        if definition.kind is Kind.GAUGE:
            self._meter.create_observable_gauge(*about)
        else:
            assert definition.kind is Kind.OBSERVED_COUNTER
            self._meter.create_observable_counter(*about)
