"""The metrics of a process: where they are read from, by a page or an exporter."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import TYPE_CHECKING

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader

from octavo.engine import ConfigError
from octavo.service.telemetry.exporters import PROMETHEUS, exporter_class, exporter_names
from octavo.service.telemetry.prometheus import PrometheusPage
from octavo.service.telemetry.tally import views

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.resources import Resource


class Metering:
    """page, meter: as `Telemetry` has them."""

    def __init__(self, scope: str, resource: Resource) -> None:
        """With the readers that the OTEL_* variables ask for. ConfigError."""
        self.page = PrometheusPage()
        self._stop_listening: Callable[[], None] = _nothing
        readers: list[MetricReader] = [self.page.reader]
        for name in exporter_names("metrics", os.environ):
            if name == PROMETHEUS:
                self._stop_listening = self.page.listen(*_prometheus_address(os.environ))
            else:
                readers.append(_reader(exporter_class("metrics", name, os.environ)))
        self._provider = MeterProvider(readers, resource, shutdown_on_exit=False, views=views())
        self.meter: Meter = self._provider.get_meter(scope, version("octavo"))

    def stop_listening(self) -> None:
        self._stop_listening()

    def shut_down(self) -> None:
        self._provider.shutdown()


def _nothing() -> None:
    """Ends a listener that was never asked for."""


def _reader(exporter: type) -> MetricReader:
    made = exporter()
    return made if isinstance(made, MetricReader) else PeriodicExportingMetricReader(made)


def _prometheus_address(environment: Mapping[str, str]) -> tuple[str, int]:
    text = environment.get("OTEL_EXPORTER_PROMETHEUS_PORT") or "9464"
    if not text.isdigit() or int(text) > 65535:
        rule = "must be a port, 0 to 65535"
        raise ConfigError(f"environment variable OTEL_EXPORTER_PROMETHEUS_PORT: {rule} (got {text!r})")
    return environment.get("OTEL_EXPORTER_PROMETHEUS_HOST") or "localhost", int(text)
