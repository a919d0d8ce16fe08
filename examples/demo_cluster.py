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
from contextlib import ExitStack, contextmanager, suppress
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
NAMESPACE = "octavo-demo"
RELEASE = "octavo-demo"
CRD = "inferencemodels.serving.octavo.dev"
IMAGES = {"engine-cpu": "localhost/octavo-engine-cpu", "control": "localhost/octavo-control"}
TAG = "demo"
VALUES = {
    "control.image.repository": IMAGES["control"],
    "control.image.tag": TAG,
    "engine.cpuImage.repository": IMAGES["engine-cpu"],
    "engine.cpuImage.tag": TAG,
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
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        with ExitStack() as undo:
            demo(undo)
    except KeyboardInterrupt:
        console.print("[yellow]interrupted[/yellow]")
        return 130
    except DemoFailed as error:
        console.print(Text.assemble(("✗ ", "red"), str(error)))
        return 1
    return 0


def demo(undo: ExitStack) -> None:
    check_cluster()

    title("The images")
    build = os.environ.get("BUILD_IMAGE", "true")
    for target, name in IMAGES.items():
        run(f"{build} {name}:{TAG} {target}")

    title("Operator and gateway")
    there = get(f"crds --field-selector=metadata.name={CRD}")["items"]
    values = VALUES | ({"crd.install": "false"} if there else {})
    undo.callback(clean_up)
    run(f"kubectl create namespace {NAMESPACE}")
    settings = shlex.join(f"--set={name}={value}" for name, value in values.items())
    run_quietly(f"helm install {RELEASE} charts/octavo -n {NAMESPACE} {settings} --wait --timeout=3m")
    run(f"kubectl get pods -n {NAMESPACE}")

    title("A model")
    run(f"kubectl apply -n {NAMESPACE} -f examples/smollm2.yaml")
    run(f"kubectl wait -n {NAMESPACE} --for=condition=Ready oim/smollm2 --timeout=4m")
    run(f"kubectl get oim -n {NAMESPACE}")

    with gateway() as (grpc, http):
        title("A chat by gRPC")
        run(f"octavo chat --server {grpc} --temperature=0 --max-tokens=48 {shlex.quote(QUESTION)}")

        title("The same by the openai package")
        run(f"python examples/openai_chat.py http://{http}/v1 {shlex.quote(QUESTION)}")

        title(f"Load: {STREAMS} answers of {TOKENS} tokens at a time")
        show(f"python examples/load.py {grpc} --streams={STREAMS} --tokens={TOKENS}")
        asyncio.run(scale(grpc))
    run(f"kubectl get oim -n {NAMESPACE} -o wide")
    run(f"kubectl events -n {NAMESPACE} --for=inferencemodel/smollm2")


def check_cluster() -> None:
    """DemoFailed if there is no cluster, or if the demo would get in somebody's way there."""
    for program in ("kubectl", "helm"):
        if subprocess.run(["which", program], capture_output=True, check=False).returncode:
            raise DemoFailed(f"{program} is not installed")
    if subprocess.run(["kubectl", "get", "--raw=/readyz"], capture_output=True, check=False).returncode:
        raise DemoFailed("kubectl reaches no cluster; with kind: kind create cluster")
    labels = "app.kubernetes.io/name=octavo,app.kubernetes.io/component=operator"
    operators = get(f"deployments -A -l {labels}")
    for found in operators["items"]:
        raise DemoFailed(f"Octavo is on this cluster already, in namespace {found['metadata']['namespace']}")
    if get(f"namespaces --field-selector=metadata.name={NAMESPACE}")["items"]:
        raise DemoFailed(f"namespace {NAMESPACE} exists already; kubectl delete namespace {NAMESPACE}")
    context = subprocess.run(
        ["kubectl", "config", "current-context"], capture_output=True, text=True, check=False
    ).stdout.strip()
    console.print(f"[bold]Octavo on {context}[/bold]")


def clean_up() -> None:
    """All that was made, made undone: the operator last, the resource itself with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave things behind
    title("Clean up")
    run(f"kubectl delete oim --all -n {NAMESPACE} --ignore-not-found --timeout=1m", must=False)
    run(f"helm uninstall {RELEASE} -n {NAMESPACE} --ignore-not-found --wait --timeout=2m", must=False)
    run(f"kubectl delete namespace {NAMESPACE} --ignore-not-found --timeout=2m", must=False)
    if get(f"namespaces --field-selector=metadata.name={NAMESPACE}")["items"]:
        raise DemoFailed(f"namespace {NAMESPACE} is left; kubectl delete namespace {NAMESPACE}")
    console.print("[green]✓[/green] nothing is left on the cluster")


@contextmanager
def gateway() -> Iterator[tuple[str, str]]:
    """Its addresses for gRPC and HTTP: the Service's if that is reached from here, else forwarded ones."""
    name = f"{RELEASE}-gateway"
    host = get(f"service {name} -n {NAMESPACE}")["spec"]["clusterIP"]
    try:
        socket.create_connection((host, 50051), timeout=1).close()
        yield f"{host}:50051", f"{host}:8000"
        return
    except OSError:
        pass
    line = f"kubectl port-forward -n {NAMESPACE} service/{name} :50051 :8000"
    show(line)
    with started(line, stdout=subprocess.PIPE) as forwarding:
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
                model = await asyncio.to_thread(get, f"oim smollm2 -n {NAMESPACE}")
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


def show(line: str) -> None:
    console.print(Text.assemble(("$ ", "cyan"), line))


def run(line: str, must: bool = True) -> None:
    """Shows a command and runs it. DemoFailed if it fails and must not."""
    show(line)
    with started(line) as process:
        code = process.wait()
    if code and must:
        raise DemoFailed(f"{line.split()[0]} failed with exit code {code}")


def run_quietly(line: str) -> None:
    """The same, but shows the pods' states meanwhile instead of what it says. DemoFailed if it fails."""
    show(line)
    with (
        started(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
        console.status("…") as status,
    ):
        while process.poll() is None:
            with suppress(DemoFailed):
                pods = get(f"pods -n {NAMESPACE}")["items"]
                phases = (f"{pod['metadata']['name']} {pod['status'].get('phase', '')}" for pod in pods)
                status.update(", ".join(phases) or "…")
            time.sleep(0.5)
        assert process.stdout is not None
        said = process.stdout.read()
    if process.returncode:
        raise DemoFailed(f"{line.split()[0]} failed: {said}")


@contextmanager
def started(
    line: str, stdout: int | None = None, stderr: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own, so that Ctrl-C is the demo's, which undoes what was begun."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # octavo and python are this environment's
    with subprocess.Popen(
        shlex.split(line),
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        start_new_session=True,
        text=True,
        stdout=stdout,
        stderr=stderr,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def get(what: str) -> dict[str, Any]:
    """What `kubectl get` finds. DemoFailed."""
    command = ["kubectl", "get", *what.split(), "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoFailed(done.stderr.strip())
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
