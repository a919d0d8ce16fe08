"""The Prometheus page: OpenTelemetry's exporter, under the names that vLLM's dashboards look for."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import HistogramMetricFamily

from octavo.engine import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.core import Metric

    from octavo.service.telemetry.definitions import Definition

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class PrometheusPage:
    """The metrics of one meter provider in Prometheus' text format 0.0.4, with `octavo:` for `octavo_`.

    `reader` is to be given to the provider.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._one_at_a_time = threading.Lock()
        self._expected: list[HistogramMetricFamily] = []
        self.reader = PrometheusMetricReader(scope_info_enabled=False, registry=self._registry)

    async def __call__(self) -> bytes:
        """The page. Made in a thread: metrics that are read on the event loop would wait for it there."""
        return await asyncio.to_thread(generate_latest, self)

    def expect(self, definition: Definition, bounds: Iterable[float], labels: Mapping[str, str]) -> None:
        """Shows a histogram with zeros until something is observed.

        OpenTelemetry tells nothing of an instrument before its first value, and Prometheus counts nothing of
        a series' first value: without this, the first request after a start would be missing in every rate.
        """
        family = HistogramMetricFamily(definition.exposed_name, definition.description, labels=list(labels))
        buckets = [(str(bound), 0.0) for bound in bounds]
        family.add_metric(list(labels.values()), [*buckets, ("+Inf", 0.0)], sum_value=0.0)
        self._expected.append(family)

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks of a collector."""
        with self._one_at_a_time:  # the exporter hands all that was collected to whoever asks first
            families = [_renamed(family) for family in self._registry.collect()]
        yield from families
        shown = {family.name for family in families}
        if shown:  # else the SDK is disabled
            yield from (family for family in self._expected if family.name not in shown)

    def listen(self, host: str, port: int) -> Callable[[], None]:
        """Serves this page alone from a thread; the result ends that. ConfigError if nothing can listen."""
        try:
            server, thread = start_http_server(port, host, self)
        except OSError as error:
            rule = f"cannot be listened on for metrics: {error.strerror or error}"
            raise ConfigError(f"address {host}:{port}: {rule}") from None

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop


def _renamed(family: Metric) -> Metric:
    if family.name.startswith("octavo_"):
        family.name = _with_colon(family.name)
        family.samples = [sample._replace(name=_with_colon(sample.name)) for sample in family.samples]
    return family


def _with_colon(name: str) -> str:
    return "octavo:" + name.removeprefix("octavo_")
