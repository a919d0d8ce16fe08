"""Which exporters the OTEL_* variables ask for."""

from __future__ import annotations

import pytest

from octavo.engine import ConfigError
from octavo.service.telemetry.exporters import exporter_class, exporter_names, warn_of_ignored

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}


def test_nothing_is_exported_where_nothing_is_configured() -> None:
    assert exporter_names("traces", {}) == []
    assert exporter_names("metrics", {}) == []


def test_an_endpoint_for_all_is_enough_for_otlp() -> None:
    assert exporter_names("traces", ENDPOINT) == ["otlp"]
    assert exporter_names("metrics", ENDPOINT) == ["otlp"]


def test_an_endpoint_for_one_signal_is_for_that_one() -> None:
    environment = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4317"}
    assert exporter_names("traces", environment) == ["otlp"]
    assert exporter_names("metrics", environment) == []


def test_named_exporters_go_before_what_an_endpoint_suggests() -> None:
    environment = {**ENDPOINT, "OTEL_TRACES_EXPORTER": "console, otlp", "OTEL_METRICS_EXPORTER": "none"}
    assert exporter_names("traces", environment) == ["console", "otlp"]
    assert exporter_names("metrics", environment) == []


def test_a_disabled_sdk_exports_nothing() -> None:
    environment = {**ENDPOINT, "OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "True"}
    assert exporter_names("traces", environment) == []
    assert exporter_names("metrics", environment) == []


@pytest.mark.parametrize(
    ("environment", "module"),
    [
        ({}, "grpc"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "http"),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"},
            "grpc",
        ),
    ],
)
def test_the_protocol_decides_the_exporter(environment: dict[str, str], module: str) -> None:
    exporter = exporter_class("traces", "otlp", environment)
    assert exporter.__module__.startswith(f"opentelemetry.exporter.otlp.proto.{module}")


def test_an_unknown_protocol_is_a_bad_setting() -> None:
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_PROTOCOL: must be one of grpc, http/protobuf"):
        exporter_class("metrics", "otlp", {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})


def test_an_unknown_exporter_is_a_bad_setting() -> None:
    with pytest.raises(ConfigError, match=r"OTEL_TRACES_EXPORTER: must name exporters .* \(got 'jaeger'\)"):
        exporter_class("traces", "jaeger", {})


def test_what_is_not_followed_is_said(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_ignored({"OTEL_LOGS_EXPORTER": "otlp", "OTEL_CONFIG_FILE": "otel.yaml"})
    assert [message.partition(" ")[0] for message in caplog.messages] == [
        "OTEL_LOGS_EXPORTER",
        "OTEL_CONFIG_FILE",
    ]
    caplog.clear()
    warn_of_ignored({"OTEL_LOGS_EXPORTER": "none"})
    assert not caplog.messages
