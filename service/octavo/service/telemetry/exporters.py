"""What the OTEL_* variables ask for: which exporters of traces and metrics, by which protocol.

Endpoints, headers, certificates, timeouts, samplers, limits, batching and intervals are read by the SDK's own
classes. What the SDK has for the choice of exporters (`opentelemetry.sdk._configuration`) is private, makes
providers that are global and takes neither views nor a second reader, so that choice is made here.
"""

from __future__ import annotations

import logging
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal

from octavo.engine import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

Signal = Literal["traces", "metrics"]

PROTOCOLS = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
PROMETHEUS = "prometheus"


def disabled(environment: Mapping[str, str]) -> bool:
    return environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def exporter_names(signal: Signal, environment: Mapping[str, str]) -> list[str]:
    """The exporters of OTEL_TRACES_EXPORTER or OTEL_METRICS_EXPORTER; none if there is no such variable.

    The specification's default is to export to localhost, which would fail loudly on every laptop. So here
    OTLP is the default where an endpoint is given, and none where not.
    """
    if disabled(environment):
        return []
    asked = environment.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip()
    if not asked:
        endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
        return ["otlp"] if any(environment.get(name) for name in endpoints) else []
    names = [name.strip() for name in asked.split(",")]
    return [] if names == ["none"] else names


def warn_of_ignored(environment: Mapping[str, str]) -> None:
    """Says so where a variable asks for something that is not done."""
    if environment.get("OTEL_LOGS_EXPORTER", "none").strip() not in ("", "none"):
        log.warning("OTEL_LOGS_EXPORTER is not followed: logs go to stderr, with the ids of their traces")
    if environment.get("OTEL_CONFIG_FILE"):
        log.warning("OTEL_CONFIG_FILE is not read: use the other OTEL_ variables")


def exporter_class(signal: Signal, name: str, environment: Mapping[str, str]) -> Any:
    """The class that a package offers under this name. ConfigError if none does."""
    if name == "otlp":
        variables = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
        variable = next((variable for variable in variables if environment.get(variable)), variables[-1])
        protocol = environment.get(variable, "").strip() or "grpc"
        if protocol not in PROTOCOLS:
            rule = f"must be one of {', '.join(PROTOCOLS)}"
            raise ConfigError(f"environment variable {variable}: {rule} (got {protocol!r})")
        name = PROTOCOLS[protocol]
    found = list(entry_points(group=f"opentelemetry_{signal}_exporter", name=name))
    if not found:
        variable = f"OTEL_{signal.upper()}_EXPORTER"
        rule = "must name exporters that are installed, such as otlp, console or none"
        raise ConfigError(f"environment variable {variable}: {rule} (got {name!r})")
    return found[0].load()
