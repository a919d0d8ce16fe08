"""The life of a process' telemetry: providers made from the environment, flushed at its end.

The SDK takes a tenth of a second to import. Where the environment asks for no exporter, it waits until
somebody wants the page or the meter.
"""

from __future__ import annotations

import logging
import os
import threading
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

from opentelemetry.trace import NoOpTracer

from octavo.service.telemetry.exporters import exporter_class, exporter_names, warn_of_ignored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

    from octavo.service.telemetry.metering import Metering
    from octavo.service.telemetry.prometheus import PrometheusPage

log = logging.getLogger(__name__)

SCOPE = "octavo"
FLUSH = 5.0
"""Seconds for which the end of a process waits for a collector to take what is left."""


class Telemetry:
    """Where spans and metrics go in this process. Thread-safe.

    tracer: makes spans if something takes them, and else only passes on the context that it is given.
    exports_metrics: whether metrics go somewhere by themselves, and not only to who asks for the page.
    """

    def __init__(self, service: str, environment: Mapping[str, str]) -> None:
        self._service = service
        self._tracers = self._made_tracers(exporter_names("traces", environment))
        self.tracer: Tracer = (
            self._tracers.get_tracer(SCOPE, version("octavo")) if self._tracers else NoOpTracer()
        )
        self.exports_metrics = bool(exporter_names("metrics", environment))
        self._making = threading.Lock()
        self._made: Metering | None = None

    @classmethod
    def start(cls, service: Literal["octavo-engine", "octavo-gateway"]) -> Telemetry:
        """As the OTEL_* variables say; `service` is service.name where they say none. ConfigError."""
        warn_of_ignored(os.environ)
        telemetry = cls(service, os.environ)
        if telemetry.exports_metrics:
            _ = telemetry.meter  # what is wrong with its exporters is told now
        return telemetry

    @property
    def page(self) -> PrometheusPage:
        """All metrics, as `/metrics` answers with them; nothing is in it under OTEL_SDK_DISABLED."""
        return self._metering.page

    @property
    def meter(self) -> Meter:
        """Makes the instruments of `definitions`, through `instruments`."""
        return self._metering.meter

    @property
    def _metering(self) -> Metering:
        with self._making:
            if self._made is None:
                from octavo.service.telemetry.metering import Metering

                self._made = Metering(SCOPE, self._resource)
            return self._made

    @cached_property
    def _resource(self) -> Resource:
        return resource_of(self._service)

    def _made_tracers(self, names: list[str]) -> TracerProvider | None:
        if not names:
            return None
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider(resource=self._resource, shutdown_on_exit=False)
        for name in names:
            provider.add_span_processor(BatchSpanProcessor(exporter_class("traces", name, os.environ)()))
        return provider

    def close(self, patience: float = FLUSH) -> None:
        """Exports what is left, for at most `patience` seconds.

        Blocks, so call it in a thread: what belongs to the event loop is read there once more.
        """
        if self._made is not None:
            self._made.stop_listening()
        thread = threading.Thread(target=self._shut_down, name="telemetry-flush", daemon=True)
        thread.start()
        thread.join(patience)
        if thread.is_alive():
            log.warning("telemetry: the collector took longer than %g s; its last data is lost", patience)

    def _shut_down(self) -> None:
        if self._tracers is not None:
            self._tracers.shutdown()
        if self._made is not None:
            self._made.shut_down()


def resource_of(service: str) -> Resource:
    """What the telemetry is about; OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME go before what we know.

    The SDK adds a random service.instance.id for the process, if none is given.
    """
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    ours = {"service.name": service, "service.version": version("octavo")}
    given = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in ours.items() if name not in given})
