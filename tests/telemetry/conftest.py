"""A collector, and servers that export to it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from tests.service.conftest import serving, world  # noqa: F401  # fixtures
from tests.telemetry.collector import Collector, grpc_collector


@dataclass(frozen=True)
class Caller:
    """A client's own span, which nobody exports: all that a server sees of it is this."""

    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))
    span_id: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-01"

    @property
    def headers(self) -> dict[str, str]:
        return {"traceparent": self.traceparent, "tracestate": "vendor=value"}

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return tuple(self.headers.items())


@pytest.fixture
def caller() -> Caller:
    return Caller()


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """What is started from here on, in this process or below it, exports to this collector, at once."""
    async with grpc_collector() as collector:
        for name, value in export_to(collector).items():
            monkeypatch.setenv(name, value)
        yield collector


def export_to(collector: Collector) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
    }
