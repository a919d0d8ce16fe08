"""What `octavo gateway` is told: its doors, where its pods are, and how patient it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from octavo.engine import ConfigError
from octavo.engine.config import option
from octavo.service.config import CONFIG_VARIABLE, SERVER_VARIABLE
from octavo.service.gateway.retry import RetrySettings
from octavo.service.settings import Setting, resolve, settings_of

if TYPE_CHECKING:
    from collections.abc import Mapping


def _split(value: object) -> object:
    """The environment has no lists, so commas part the values of one."""
    values = [value] if isinstance(value, str) else value
    if isinstance(values, (list, tuple)) and all(isinstance(part, str) for part in values):
        return [name.strip() for part in values for name in part.split(",") if name.strip()]
    return values


Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
RETRIES = RetrySettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """Settings of one gateway."""

    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 or [::] for all interfaces.")
    port: Port = option(50050, "Port for gRPC; 0 for any free one.")
    http: bool = option(True, "Serve the OpenAI API over HTTP, too.")
    http_port: Port = option(8000, "Port of the HTTP server, on the same host; 0 for any free one.")
    pods: Names = option((), "Pods as host:port or model=host:port, several with commas between them.")
    dns: str | None = option(
        None, "Pods by a DNS name that has all their addresses: host:port or model=host:port."
    )
    kubernetes: bool = option(False, "Pods and models from the InferenceModels of a Kubernetes cluster.")
    namespaces: Names = option(
        (), "Namespaces whose InferenceModels are served, with commas between them; all if unset."
    )
    patience: Seconds = option(
        RETRIES.patience, "Seconds for which a request waits for a pod: at first, and when it has lost one."
    )
    wake_patience: Seconds = option(
        RETRIES.wake_patience, "The same for a model at zero replicas, which has to be woken."
    )
    max_attempts: Annotated[int, Field(ge=1)] = option(
        RETRIES.max_attempts, "Pods that one request is sent to without a token of progress."
    )
    retry_budget: Annotated[float, Field(ge=0)] = option(
        RETRIES.budget, "Retries without progress that all requests together may make at once."
    )
    hang_timeout: Seconds = option(5.0, "Seconds without a report after which a pod's streams are moved.")
    watch_interval: Annotated[float, Field(ge=0.01)] = option(0.2, "Seconds between two reports of a pod.")
    grace_period: Annotated[float, Field(ge=0)] = option(
        30.0, "Seconds for which running requests may go on after SIGTERM."
    )
    max_message_size: Annotated[int, Field(ge=1024, lt=2**31)] = option(
        4 * 1024 * 1024, "Largest request in bytes: a message of gRPC, or the body of an HTTP request."
    )
    log_level: Literal["debug", "info", "warning", "error"] = option("info", "Least level that is logged.")
    log_format: Literal["text", "json"] | None = option(
        None, "How log lines look; text on a terminal and json elsewhere if unset."
    )

    def __post_init__(self) -> None:
        sources = [name for name in ("pods", "dns", "kubernetes") if getattr(self, name)]
        if len(sources) != 1:
            given = f" (got {', '.join(sources)})" if sources else ""
            raise ConfigError(f"exactly one of pods, dns and kubernetes must say where the pods are{given}")
        if self.namespaces and not self.kubernetes:
            raise ConfigError(f"namespaces: needs kubernetes (got {', '.join(self.namespaces)})")

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def retries(self) -> RetrySettings:
        return RetrySettings(
            max_attempts=self.max_attempts,
            patience=self.patience,
            wake_patience=self.wake_patience,
            budget=self.retry_budget,
        )


GATEWAY_SETTINGS: tuple[Setting, ...] = settings_of(GatewayConfig)


def load_gateway_config(
    flags: Mapping[str, object], environment: Mapping[str, str], file: Path | None = None
) -> GatewayConfig:
    """`file` defaults to OCTAVO_CONFIG's. ConfigError says where a bad value is from."""
    if file is None and environment.get(CONFIG_VARIABLE):
        file = Path(environment[CONFIG_VARIABLE])
    values: dict[str, Any] = resolve(
        GATEWAY_SETTINGS, flags, environment, file, (CONFIG_VARIABLE, SERVER_VARIABLE)
    )
    return GatewayConfig(**values)
