"""A real cluster with the chart installed from this checkout, and InferenceModels on it.

KUBECONFIG names the cluster. BUILD_IMAGE builds a target of the Dockerfile into its nodes' images: it is
called with the image's name and the target. CLUSTER_FAULT, where the control plane's parts can be killed and
paused, is called with what to do (kill, start, pause, resume) and the part's name. AUDIT_LOG is the API
server's, where it can be read. Without KUBECONFIG all of this is skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from octavo.v1 import gateway_pb2
from tests.cluster.kubectl import CommandFailed, Kubectl, is_ready, run
from tests.cluster.traffic import Doors

ROOT = Path(__file__).parents[2]
RELEASE = "octavo"
SYSTEM = "octavo-system"
IMAGES = {"engine-cpu": "localhost/octavo-engine-cpu:test", "control": "localhost/octavo-control:test"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("KUBECONFIG"):
        return
    for item in items:
        item.add_marker(pytest.mark.skip(reason="no cluster: KUBECONFIG is not set"))


@dataclass(frozen=True)
class Installation:
    """The chart's release, and its gateway's addresses on a node."""

    kubectl: Kubectl
    grpc_address: str
    http_address: str
    since: datetime

    def doors(self, model: str, connections: int = 6) -> Doors:
        return Doors(self.grpc_address, self.http_address, model, connections)


@pytest.fixture(scope="session")
def images() -> None:
    """Both images, built from this checkout. Their names end in :test, so a restart finds the new ones."""
    command = shlex.split(os.environ["BUILD_IMAGE"])
    for target, name in IMAGES.items():
        subprocess.run([*command, name, target], cwd=ROOT, check=True)


@pytest.fixture(scope="session")
def collector(images: None) -> Iterator[str]:
    """An OTLP receiver in the cluster; its address. Its log is what it received."""
    script = (Path(__file__).parent / "collector.py").read_text()
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "collector", "namespace": SYSTEM, "labels": {"app": "collector"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "collector",
                    "image": IMAGES["control"],
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-c", script],
                }
            ],
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "collector", "namespace": SYSTEM},
        "spec": {"selector": {"app": "collector"}, "ports": [{"port": 4317}]},
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}
    resources = yaml.safe_dump_all([namespace, pod, service])
    subprocess.run(["kubectl", "apply", "-f", "-"], input=resources, text=True, check=True)
    try:
        yield f"http://collector.{SYSTEM}.svc:4317"
    finally:
        subprocess.run(["kubectl", "delete", "namespace", SYSTEM], check=True)


@pytest.fixture(scope="session")
def installation(collector: str) -> Iterator[Installation]:
    """Octavo by its chart, under exactly the chart's roles; what it leaves behind fails the run."""
    values = {
        "engine": {"cpuImage": {"repository": "localhost/octavo-engine-cpu", "tag": "test"}},
        "control": {"image": {"repository": "localhost/octavo-control", "tag": "test"}},
        "gateway": {"service": {"type": "NodePort"}},
        "otel": {
            "endpoint": collector,
            "env": {"OTEL_BSP_SCHEDULE_DELAY": "500", "OTEL_METRICS_EXPORTER": "none"},
        },
    }
    install = ["helm", "upgrade", "--install", RELEASE, "charts/octavo", "-n", SYSTEM, "--create-namespace"]
    subprocess.run(
        [*install, "--wait", "--timeout", "3m", "-f", "-"],
        cwd=ROOT,
        input=yaml.safe_dump(values),
        text=True,
        check=True,
    )
    try:
        yield _installation()
    finally:
        subprocess.run(["helm", "uninstall", RELEASE, "-n", SYSTEM, "--wait"], check=True)


def _installation() -> Installation:
    def get(*what: str) -> dict[str, Any]:
        command = ["kubectl", "get", *what, "-o", "json"]
        found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return found

    addresses = get("nodes")["items"][0]["status"]["addresses"]
    node = next(address["address"] for address in addresses if address["type"] == "InternalIP")
    service = get("service", f"{RELEASE}-gateway", "-n", SYSTEM)
    ports = {port["name"]: port["nodePort"] for port in service["spec"]["ports"]}
    return Installation(
        Kubectl(SYSTEM), f"{node}:{ports['grpc']}", f"{node}:{ports['http']}", datetime.now(UTC)
    )


@pytest.fixture
async def kubectl() -> AsyncIterator[Kubectl]:
    """A namespace of the test's own; it is gone, with all that is in it, when the test ends."""
    namespace = f"octavo-test-{uuid.uuid4().hex[:6]}"
    await run("kubectl", "create", "namespace", namespace)
    try:
        yield Kubectl(namespace)
    finally:
        await run("kubectl", "delete", "namespace", namespace, seconds=180)


Deploy = Callable[..., Awaitable[Kubectl]]


@pytest.fixture
def deploy(installation: Installation, kubectl: Kubectl) -> Deploy:
    """Applies an InferenceModel of the small model in float32, and waits until it is ready."""

    async def apply(name: str, *, scaling: dict[str, Any] | None = None, **spec: Any) -> Kubectl:
        await kubectl.apply(inference_model(name, scaling=scaling, **spec))
        await kubectl.until(f"oim/{name}", is_ready, 120)
        return kubectl

    return apply


def inference_model(name: str, *, scaling: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "serving.octavo.dev/v1alpha1",
        "kind": "InferenceModel",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": "builtin://smollm2"},
            "engine": {
                "dtype": "float32",
                "maxModelLen": 1024,
                "kvCache": {"memory": "128Mi"},
                # Several pods share the node's few cores; more threads would only get in each other's way.
                "extraArgs": ["--threads=1"],
            },
            "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "3Gi"}},
            "scaling": scaling or {"minReplicas": 1, "maxReplicas": 1},
        }
        | spec,
    }


Fault = Callable[[str, str], Awaitable[str]]


@pytest.fixture
async def fault() -> AsyncIterator[Fault]:
    """Does something to a part of the control plane. Whatever was done is undone when the test ends."""
    command = os.environ.get("CLUSTER_FAULT")
    if not command:
        pytest.skip("this cluster's control plane cannot be killed: CLUSTER_FAULT is not set")
    undo = {"pause": "resume", "kill": "start", "stop": "start"}
    done: list[tuple[str, str]] = []

    async def do(what: str, part: str) -> str:
        if what in undo:
            done.append((undo[what], part))
        return await run(*shlex.split(command), what, part, seconds=60)

    yield do
    for what, part in reversed(done):
        with suppress(CommandFailed):
            await run(*shlex.split(command), what, part, seconds=60)
    await Kubectl("default").until("node", lambda nodes: all(is_up(node) for node in nodes["items"]), 120)


def is_up(node: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])


async def until_no_block_is_held(doors: Doors, seconds: float = 60) -> None:
    """Waits until the pods that serve are idle. One that hangs says nothing, and is restarted in the end."""
    async with asyncio.timeout(seconds):
        while any(is_busy(pod) for pod in await doors.pods()):
            await asyncio.sleep(0.2)


def is_busy(pod: gateway_pb2.Pod) -> bool:
    return pod.state == gateway_pb2.POD_STATE_SERVING and bool(pod.load.held_blocks or pod.load.running)
