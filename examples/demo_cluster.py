"""Octavo on a cluster, from nothing to three pods and back: `make demo-cluster`.

Works on whatever cluster kubectl reaches. Each step is a command that you could type; it is shown before it
runs. BUILD_IMAGE is called as `$BUILD_IMAGE NAME TARGET`, and must give the image to the cluster's nodes;
BUILD_IMAGE=true builds nothing. All that the demo makes is gone when it ends, Ctrl-C included.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from load import Tally, load
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from octavo.service.client import Client
from octavo.service.top.feed import watch
from octavo.service.top.snapshot import Snapshot
from octavo.service.top.table import bar

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
NAMESPACE = "octavo-demo"
RELEASE = "octavo-demo"
IMAGES = {"engine": "localhost/octavo-engine", "control": "localhost/octavo-control"}
TAG = "demo"
VALUES = {
    "control.image.repository": IMAGES["control"],
    "control.image.tag": TAG,
    "engine.image.repository": IMAGES["engine"],
    "engine.image.tag": TAG,
    "watchNamespaces": f"{{{NAMESPACE}}}",
    "crd.keep": "false",
}
QUESTION = "Why is the sky blue? Answer in two sentences."
STREAMS, TOKENS = 24, 400
"""Load: so many answers under way at once, so long each."""
UNTIL_SCALED = 240.0
"""Seconds of load before the demo gives up on more pods."""

console = Console(highlight=False, soft_wrap=True)


class DemoFailed(Exception):
    """A step that did not do what it should, in words."""


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as undo:
            demo(undo)
    except KeyboardInterrupt:
        console.print("\n[yellow]interrupted; all that was made is gone[/yellow]")
        return 130
    except DemoFailed as error:
        console.print(f"[red]✗[/red] {error}", markup=True)
        return 1
    console.print("\n[green]✓[/green] nothing is left on the cluster")
    return 0


def demo(undo: ExitStack) -> None:
    check_cluster()

    title("The images")
    for target, name in IMAGES.items():
        run(*shlex.split(os.environ.get("BUILD_IMAGE", "true")), f"{name}:{TAG}", target)

    title("Operator and gateway")
    undo.callback(clean_up)
    values = [f"--set={name}={value}" for name, value in VALUES.items()]
    run("kubectl", "create", "namespace", NAMESPACE)
    run(
        "helm",
        "install",
        RELEASE,
        "charts/octavo",
        "-n",
        NAMESPACE,
        *values,
        "--wait",
        "--timeout=3m",
        quiet=True,
    )
    run("kubectl", "get", "pods", "-n", NAMESPACE)

    title("A model")
    run("kubectl", "apply", "-n", NAMESPACE, "-f", "examples/smollm2.yaml")
    run("kubectl", "wait", "-n", NAMESPACE, "--for=condition=Ready", "oim/smollm2", "--timeout=4m")
    run("kubectl", "get", "oim", "-n", NAMESPACE)

    with gateway() as (grpc, http):
        title("A chat by gRPC")
        run(str(BIN / "octavo"), "chat", "--server", grpc, "--temperature=0", "--max-tokens=48", QUESTION)

        title("The same by the openai package")
        run(str(BIN / "python"), "examples/openai_chat.py", f"http://{http}/v1", QUESTION)

        title(f"Load: {STREAMS} answers of {TOKENS} tokens at a time")
        command(BIN / "python", "examples/load.py", grpc, f"--streams={STREAMS}", f"--tokens={TOKENS}")
        asyncio.run(scale(grpc))
    run("kubectl", "get", "oim", "-n", NAMESPACE, "-o", "wide")
    run("kubectl", "events", "-n", NAMESPACE, "--for=inferencemodel/smollm2")


def check_cluster() -> None:
    """DemoFailed if there is no cluster, or if the demo would get in somebody's way there."""
    for program in ("kubectl", "helm"):
        if subprocess.run(["which", program], capture_output=True, check=False).returncode:
            raise DemoFailed(f"{program} is not installed")
    if subprocess.run(["kubectl", "get", "--raw=/readyz"], capture_output=True, check=False).returncode:
        raise DemoFailed("kubectl reaches no cluster; with kind: kind create cluster")
    operators = get(
        "deployments", "-A", "-l", "app.kubernetes.io/name=octavo,app.kubernetes.io/component=operator"
    )
    for found in operators["items"]:
        raise DemoFailed(f"Octavo is on this cluster already, in namespace {found['metadata']['namespace']}")
    if get("namespaces", "--field-selector", f"metadata.name={NAMESPACE}")["items"]:
        raise DemoFailed(f"namespace {NAMESPACE} exists already; kubectl delete namespace {NAMESPACE}")
    context = subprocess.run(
        ["kubectl", "config", "current-context"], capture_output=True, text=True, check=False
    ).stdout.strip()
    console.print(f"[bold]Octavo on {context}[/bold]")


def clean_up() -> None:
    """All that was made, made undone: the operator last, the resource itself with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave things behind
    title("Clean up")
    run(
        "kubectl", "delete", "oim", "--all", "-n", NAMESPACE, "--ignore-not-found", "--timeout=1m", must=False
    )
    run(
        "helm",
        "uninstall",
        RELEASE,
        "-n",
        NAMESPACE,
        "--ignore-not-found",
        "--wait",
        "--timeout=2m",
        must=False,
    )
    run("kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=2m", must=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def gateway() -> Iterator[tuple[str, str]]:
    """Its addresses for gRPC and HTTP: the Service's if that is reached from here, else forwarded ones."""
    name = f"{RELEASE}-gateway"
    host = get("service", name, "-n", NAMESPACE)["spec"]["clusterIP"]
    try:
        socket.create_connection((host, 50051), timeout=1).close()
        yield f"{host}:50051", f"{host}:8000"
        return
    except OSError:
        pass
    arguments = ["kubectl", "port-forward", "-n", NAMESPACE, f"service/{name}", ":50051", ":8000"]
    command(*arguments)
    with started(*arguments, stdout=subprocess.PIPE) as forwarding:
        assert forwarding.stdout is not None
        ports: dict[str, str] = {}
        while len(ports) < 2:
            line = forwarding.stdout.readline()
            if not line:
                raise DemoFailed("kubectl port-forward has ended")
            if found := re.match(r"Forwarding from (127\.0\.0\.1:\d+) -> (\d+)", line):
                ports[found[2]] = found[1]
        yield ports["50051"], ports["8000"]


async def scale(address: str) -> None:
    """Loads the model until it has all its pods, and shows how it gets there."""
    tally = Tally()
    async with Client(address) as client:
        await client.model()  # fails here, and clearly, if the way is not free
    loading = asyncio.ensure_future(load(address, STREAMS, TOKENS, tally))
    history: list[tuple[float, int]] = []
    began = time.monotonic()
    try:
        with Live(console=console, auto_refresh=False) as screen:
            async for told in watch([address], 1.0):
                if not isinstance(told, Snapshot):
                    continue
                now = time.monotonic() - began
                model = await asyncio.to_thread(get, "oim", "smollm2", "-n", NAMESPACE)
                serving = sum(pod.state == "serving" for pod in told.pods)
                if not history or history[-1][1] != serving:
                    history.append((now, serving))
                screen.update(picture(told, model, tally, history), refresh=True)
                if serving >= model["spec"]["scaling"]["maxReplicas"]:
                    break
                if loading.done() or now > UNTIL_SCALED:
                    raise DemoFailed(f"{serving} pods after {now:.0f} s of load; {tally.last_failure}")
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
    console.print(
        f"[green]✓[/green] {' → '.join(f'{count} at {at:.0f} s' for at, count in history)}: "
        f"{tally.answers} answers, {tally.tokens} tokens, {tally.failures} failures"
    )


def picture(told: Snapshot, model: dict[str, Any], tally: Tally, history: list[tuple[float, int]]) -> Table:
    reason = model.get("status", {}).get("desiredMessage", "")
    grid = Table(
        title=Text(reason, style="dim"), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for name in ("POD", "STATE", "KV", "RUNNING", "WAITING", "TOKENS/S"):
        grid.add_column(name, justify="left" if name in ("POD", "STATE", "KV") else "right")
    for pod in told.pods:
        if pod.load is None:
            grid.add_row(pod.address, pod.state)
            continue
        kv = Text.assemble(bar(pod.held, pod.cached, 20), f" {pod.held * 100:3.0f}%")
        figures = (pod.load.running, pod.load.waiting, round(pod.load.output_tokens_per_second))
        grid.add_row(pod.address, pod.state, kv, *map(str, figures))
    pods = " → ".join(str(count) for _, count in history)
    grid.caption = Text(f"pods: {pods} · {tally.answers} answers, {tally.failures} failures", style="dim")
    return grid


def title(text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


def command(*arguments: object) -> None:
    shown = shlex.join(str(argument).replace(f"{BIN}/", "") for argument in arguments)
    console.print(f"[cyan]$[/cyan] {shown}", markup=True)


def run(*arguments: str, must: bool = True) -> None:
    """Shows a command and runs it. DemoFailed if it fails and must not."""
    command(*arguments)
    with started(*arguments) as process:
        code = process.wait()
    if code and must:
        raise DemoFailed(f"{arguments[0]} failed with exit code {code}")


def run_quietly(*arguments: str) -> None:
    """The same, but shows the pods' states meanwhile instead of what it says. DemoFailed if it fails."""
    command(*arguments)
    with (
        started(*arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
        console.status("…") as status,
    ):
        while process.poll() is None:
            pods = get("pods", "-n", NAMESPACE)["items"]
            phases = (f"{pod['metadata']['name']} {pod['status'].get('phase', '')}" for pod in pods)
            status.update(", ".join(phases) or "…")
            time.sleep(0.5)
        assert process.stdout is not None
        said = process.stdout.read()
    if process.returncode:
        raise DemoFailed(f"{arguments[0]} failed: {said}")


@contextmanager
def started(*arguments: str, **pipes: int) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own, so that Ctrl-C is the demo's, which undoes what was begun."""
    with subprocess.Popen(arguments, cwd=ROOT, start_new_session=True, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.terminate()


def get(*what: str) -> dict[str, Any]:
    done = subprocess.run(
        ["kubectl", "get", *what, "-o", "json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise DemoFailed(done.stderr.strip())
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
