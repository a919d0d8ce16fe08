"""`octavo-operator`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import Annotated, Any, Literal

import typer

from octavo.operator.logs import configure

PREFIX = "OCTAVO_OPERATOR_"

HELP = """
Turn InferenceModel resources into pods that serve them, as many as their load needs.

Run it in the cluster (the chart does), or from a laptop against the cluster of KUBECONFIG:

  octavo-operator --engine-image ghcr.io/octavo/engine:1 --namespace lab

Several may run: one acts, which is the one that holds the Lease; the others wait to take over. Every option
has an environment variable. OTEL_ variables of the operator are passed on to the engine pods.
"""

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


Level = Literal["debug", "info", "warning", "error"]
Form = Literal["text", "json"]


def option(name: str, text: str, **more: Any) -> Any:
    """An option with its environment variable."""
    variable = PREFIX + name.removeprefix("--").replace("-", "_").upper()
    return typer.Option(name, help=text, **{"envvar": variable, **more})


@app.command(help=HELP)
def operate(
    engine_image: Annotated[
        str,
        option(
            "--engine-image",
            "Image of engine pods whose model names none.",
            envvar="OCTAVO_ENGINE_IMAGE",
            show_default=False,
        ),
    ] = "",
    engine_cpu_image: Annotated[
        str,
        option(
            "--engine-cpu-image",
            "The same for pods that ask for no device; --engine-image if empty.",
            envvar="OCTAVO_ENGINE_CPU_IMAGE",
            show_default=False,
        ),
    ] = "",
    namespace: Annotated[
        list[str] | None,
        option(
            "--namespace",
            "Look for models in this namespace only; may be repeated.",
            show_default="everywhere",
        ),
    ] = None,
    gateway_grpc: Annotated[
        str,
        option(
            "--gateway-grpc",
            "HOST:PORT of the gateway's gRPC door, for status.endpoints.",
            show_default=False,
        ),
    ] = "",
    gateway_http: Annotated[
        str,
        option("--gateway-http", "URL of the gateway's HTTP door, for status.endpoints.", show_default=False),
    ] = "",
    lease_name: Annotated[
        str, option("--lease-name", "Lease whose holder acts. Operators of the same models share one.")
    ] = "octavo-operator",
    lease_namespace: Annotated[
        str | None, option("--lease-namespace", "Namespace of the lease.", show_default="the operator's own")
    ] = None,
    interval: Annotated[
        float, option("--interval", "Seconds between two looks at each model.", min=0.1)
    ] = 2.0,
    workers: Annotated[int, option("--workers", "Models that are reconciled at a time.", min=1)] = 4,
    port: Annotated[
        int,
        option("--port", "Port of /healthz, /readyz and /metrics; 0 for none.", min=0, max=65535),
    ] = 8080,
    log_level: Annotated[Level, option("--log-level", "Least level that is logged.")] = "info",
    log_format: Annotated[Form, option("--log-format", "Lines for people or for machines.")] = "text",
) -> None:
    from octavo.operator.desired.platform import Platform
    from octavo.operator.settings import Settings, telemetry_of_engines
    from octavo.operator.status import Doors

    configure(log_level, log_format)
    settings = Settings(
        identity=f"{os.environ.get('POD_NAME') or socket.gethostname()}_{os.urandom(4).hex()}",
        namespaces=tuple(part for each in namespace or () for part in each.split(",") if part),
        lease_namespace=lease_namespace or _own_namespace(),
        lease_name=lease_name,
        interval=interval,
        workers=workers,
        port=port,
        platform=Platform(
            engine_image or None, telemetry_of_engines(os.environ), engine_cpu_image=engine_cpu_image or None
        ),
        doors=Doors(gateway_grpc, gateway_http),
    )
    with suppress(KeyboardInterrupt):
        asyncio.run(_run(settings))


async def _run(settings: Any) -> None:
    """Until SIGTERM or SIGINT."""
    from octavo.operator.runtime import run

    task = asyncio.current_task()
    assert task
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await run(settings)


def _own_namespace() -> str:
    """The pod's namespace, else the kubeconfig's, else default."""
    from octavo.operator.cluster import SERVICE_ACCOUNT, in_cluster

    if named := os.environ.get("POD_NAMESPACE"):
        return named
    if in_cluster():
        return (SERVICE_ACCOUNT / "namespace").read_text().strip()
    from kubernetes import config

    with suppress(config.ConfigException):
        _, current = config.list_kube_config_contexts()
        return str((current.get("context") or {}).get("namespace") or "default")
    return "default"


def main() -> None:
    """Ends with 1 and one line if the operator cannot begin or has failed."""
    try:
        app()
    except Exception as error:
        print(f"octavo-operator: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        if os.environ.get(PREFIX + "LOG_LEVEL") == "debug":
            raise
        sys.exit(1)
