"""Parts of Kubernetes die or hang under load: traffic does not notice, and the state converges after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.cluster.conftest import Fault, Installation, inference_model
from tests.cluster.kubectl import CommandFailed, Kubectl, is_ready, run, status

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one loop for the fixtures of the module
TOKENS = 32


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(installation: Installation) -> AsyncIterator[Kubectl]:
    kubectl = Kubectl("octavo-test-faults")
    await run("kubectl", "create", "namespace", kubectl.namespace)
    try:
        await kubectl.apply(inference_model("steady", scaling={"minReplicas": 2, "maxReplicas": 2}))
        await kubectl.until("oim/steady", lambda oim: status(oim).get("readyReplicas") == 2, 180)
        yield kubectl
    finally:
        await run("kubectl", "delete", "namespace", kubectl.namespace, seconds=180)


async def traffic_does_not_notice(installation: Installation) -> None:
    async with installation.doors("steady") as doors:
        traffic = doors.start(24, TOKENS)
        await traffic.ended()
        assert not traffic.failures


async def changes_still_arrive(model: Kubectl, replicas: int) -> None:
    """A change of the spec reaches the pods: operator and control plane work again."""
    change = {"spec": {"scaling": {"minReplicas": replicas, "maxReplicas": replicas}}}
    async with asyncio.timeout(60):
        while True:
            try:
                await model.patch("oim/steady", change)
                break
            except CommandFailed:  # what was killed is still starting
                await asyncio.sleep(0.5)
    await model.until("oim/steady", lambda oim: status(oim).get("readyReplicas") == replicas, 120)


@pytest.mark.parametrize(
    ("what", "part"),
    [
        ("kill", "kube-apiserver"),
        ("pause", "kube-apiserver"),
        ("kill", "etcd"),
        ("pause", "etcd"),
        ("kill", "kubelet"),
        ("pause", "kubelet"),
    ],
)
async def test_a_part_of_kubernetes_is_away(
    installation: Installation, model: Kubectl, fault: Fault, what: str, part: str
) -> None:
    await changes_still_arrive(model, 2)
    await fault(what, part)
    await traffic_does_not_notice(installation)
    await fault({"kill": "start", "pause": "resume"}[what], part)
    await changes_still_arrive(model, 3)


async def test_the_operator_is_killed(installation: Installation, model: Kubectl) -> None:
    await changes_still_arrive(model, 2)
    selector = ("-l", "app.kubernetes.io/component=operator")
    await installation.kubectl("delete", "pod", *selector, "--force", "--grace-period=0")
    await traffic_does_not_notice(installation)
    await changes_still_arrive(model, 3)
    await model.until("oim/steady", is_ready, 60)


async def test_a_quiet_model_costs_the_api_server_nothing(installation: Installation, model: Kubectl) -> None:
    await model.until("oim/steady", is_ready, 60)
    await asyncio.sleep(3)
    before = await versions(model)
    await asyncio.sleep(8)
    assert await versions(model) == before


async def versions(kubectl: Kubectl) -> dict[str, str]:
    kinds = "inferencemodels,deployments,services,serviceaccounts,poddisruptionbudgets"
    found = await kubectl.list(kinds)
    return {
        f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"] for item in found
    }
