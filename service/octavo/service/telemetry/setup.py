"""The life of a process' telemetry: providers made from the environment at its start, flushed at its end."""

from __future__ import annotations

import logging
import os
import threading
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.trace import NoOpTracer

from octavo.engine import ConfigError
from octavo.service.telemetry.exporters import PROMETHEUS, exporter_class, exporter_names, warn_of_ignored
from octavo.service.telemetry.prometheus import PrometheusPage
from octavo.service.telemetry.tally import views

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

log = logging.getLogger(__name__)

SCOPE = "octavo"
FLUSH = 5.0
"""Seconds for which the end of a process waits for a collector to take what is left."""


class Telemetry:
    """Where spans and metrics go in this process.

    tracer: makes spans if something takes them, and else only passes on the context that it is given.
    meter: makes the instruments of `definitions`, through `instruments`.
    page: all metrics, as `/metrics` answers with them; nothing is in it under OTEL_SDK_DISABLED.
    """

    def __init__(
        self,
        page: PrometheusPage,
        meters: MeterProvider,
        tracers: TracerProvider | None,
        stop_listening: Callable[[], None],
    ) -> None:
        self.page = page
        self.meter: Meter = meters.get_meter(SCOPE, version("octavo"))
        self.tracer: Tracer = tracers.get_tracer(SCOPE, version("octavo")) if tracers else NoOpTracer()
        self._meters = meters
        self._tracers = tracers
        self._stop_listening = stop_listening

    @classmethod
    def start(cls, service: Literal["octavo-engine", "octavo-gateway"]) -> Telemetry:
        """As the OTEL_* variables say; `service` is service.name where they say none. ConfigError."""
        warn_of_ignored(os.environ)
        resource = resource_of(service)
        page = PrometheusPage()
        stop_listening = _nothing
        readers: list[MetricReader] = [page.reader]
        for name in exporter_names("metrics", os.environ):
            if name == PROMETHEUS:
                stop_listening = page.listen(*_prometheus_address(os.environ))
            else:
                readers.append(_reader(exporter_class("metrics", name, os.environ)))
        meters = MeterProvider(readers, resource, shutdown_on_exit=False, views=views())
        return cls(page, meters, _tracers(resource), stop_listening)

    def close(self, patience: float = FLUSH) -> None:
        """Exports what is left, for at most `patience` seconds.

        Blocks, so call it in a thread: what belongs to the event loop is read there once more.
        """
        self._stop_listening()
        thread = threading.Thread(target=self._shut_down, name="telemetry-flush", daemon=True)
        thread.start()
        thread.join(patience)
        if thread.is_alive():
            log.warning("telemetry: the collector took longer than %g s; its last data is lost", patience)

    def _shut_down(self) -> None:
        if self._tracers is not None:
            self._tracers.shutdown()
        self._meters.shutdown()


def _nothing() -> None:
    """Ends a listener that was never asked for."""


def resource_of(service: str) -> Resource:
    """What the telemetry is about; OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME go before what we know.

    The SDK adds a random service.instance.id for the process, if none is given.
    """
    ours = {"service.name": service, "service.version": version("octavo")}
    given = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in ours.items() if name not in given})


def _tracers(resource: Resource) -> TracerProvider | None:
    names = exporter_names("traces", os.environ)
    if not names:
        return None
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for name in names:
        provider.add_span_processor(BatchSpanProcessor(exporter_class("traces", name, os.environ)()))
    return provider


def _reader(exporter: type) -> MetricReader:
    made = exporter()
    return made if isinstance(made, MetricReader) else PeriodicExportingMetricReader(made)


def _prometheus_address(environment: Mapping[str, str]) -> tuple[str, int]:
    text = environment.get("OTEL_EXPORTER_PROMETHEUS_PORT") or "9464"
    if not text.isdigit() or int(text) > 65535:
        rule = "must be a port, 0 to 65535"
        raise ConfigError(f"environment variable OTEL_EXPORTER_PROMETHEUS_PORT: {rule} (got {text!r})")
    return environment.get("OTEL_EXPORTER_PROMETHEUS_HOST") or "localhost", int(text)
