"""What `octavo serve` is told: the engine's settings and the server's, from flags, environment or a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from octavo.engine import EngineConfig
from octavo.engine.config import option
from octavo.service.plain_values import Bounds
from octavo.service.settings import Setting, resolve, settings_of

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_MODEL = "smollm2"
CONFIG_VARIABLE = "OCTAVO_CONFIG"
SERVER_VARIABLE = "OCTAVO_SERVER"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Settings of one server."""

    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 or [::] for all interfaces.")
    port: Annotated[int, Bounds(ge=0, le=65535)] = option(50051, "Port to listen on; 0 for any free one.")
    http: bool = option(False, "Serve the OpenAI API over HTTP, too.")
    http_port: Annotated[int, Bounds(ge=0, le=65535)] = option(
        8000, "Port of the HTTP server, on the same host; 0 for any free one."
    )
    served_name: str | None = option(
        None, "Name that requests may give for the model; the model's own if unset."
    )
    grace_period: Annotated[float, Bounds(ge=0)] = option(
        30.0, "Seconds for which running requests may go on after SIGTERM."
    )
    max_message_size: Annotated[int, Bounds(ge=1024, lt=2**31)] = option(
        4 * 1024 * 1024, "Largest request in bytes: a message of gRPC, or the body of an HTTP request."
    )
    log_level: Literal["debug", "info", "warning", "error"] = option("info", "Least level that is logged.")
    log_format: Literal["text", "json"] | None = option(
        None, "How log lines look; text on a terminal and json elsewhere if unset."
    )

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


ENGINE_SETTINGS: tuple[Setting, ...] = settings_of(EngineConfig)
SERVER_SETTINGS: tuple[Setting, ...] = settings_of(ServerConfig)


def load_config(
    flags: Mapping[str, object], environment: Mapping[str, str], file: Path | None = None
) -> tuple[EngineConfig, ServerConfig]:
    """Both configurations; `file` defaults to OCTAVO_CONFIG's. ConfigError says where a bad value is from."""
    if file is None and environment.get(CONFIG_VARIABLE):
        file = Path(environment[CONFIG_VARIABLE])
    reserved = (CONFIG_VARIABLE, SERVER_VARIABLE)
    values: dict[str, Any] = {"model": DEFAULT_MODEL}
    values |= resolve((*ENGINE_SETTINGS, *SERVER_SETTINGS), flags, environment, file, reserved)
    engine = {setting.name: values.pop(setting.name) for setting in ENGINE_SETTINGS if setting.name in values}
    return EngineConfig(**engine), ServerConfig(**values)
