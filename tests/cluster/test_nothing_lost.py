"""Pods and gateways die, hang and change under sixty streams: every text is what it would have been."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from tests.cluster.conftest import (
    Installation,
    inference_model,
    until_no_block_is_held,
)
from tests.cluster.kubectl import Kubectl, is_ready, run, status
from tests.cluster.traffic import Doors

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one loop for the fixtures of the module
STREAMS, TOKENS = 60, 40
PODS = {"minReplicas": 3, "maxReplicas": 3}
SIGNAL = (
    "import os, pathlib, signal\n"
    "for entry in pathlib.Path('/proc').glob('[0-9]*'):\n"
    "    command = (entry / 'cmdline').read_bytes().split(b'\\0')\n"
    "    if b'serve' in command: os.kill(int(entry.name), signal.{signal})"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(installation: Installation) -> AsyncIterator[Kubectl]:
    """Three pods of one model. Their processes see each other, so that one can be killed from inside."""
    kubectl = Kubectl("octavo-test-fleet")
    await run("kubectl", "create", "namespace", kubectl.namespace)
    try:
        pod_template = {"spec": {"shareProcessNamespace": True}}
        await kubectl.apply(inference_model("fleet", scaling=PODS, podTemplate=pod_template))
        await kubectl.until("oim/fleet", lambda oim: status(oim).get("readyReplicas") == 3, 180)
        yield kubectl
    finally:
        await run("kubectl", "delete", "namespace", kubectl.namespace, seconds=180)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def undisturbed(installation: Installation, fleet: Kubectl) -> dict[str, str]:
    async with installation.doors("fleet") as doors:
        traffic = doors.start(STREAMS, TOKENS)
        await traffic.ended()
        assert not traffic.failures
        return traffic.texts


async def one_pod(kubectl: Kubectl) -> str:
    pods = await kubectl.list("pods", "-l", "serving.octavo.dev/model=fleet")
    serving = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    name: str = serving[0]["metadata"]["name"]
    return name


async def send_signal(kubectl: Kubectl, signal: str) -> None:
    await kubectl("exec", await one_pod(kubectl), "--", "python", "-c", SIGNAL.format(signal=signal))


async def kill_the_process(kubectl: Kubectl) -> None:
    await send_signal(kubectl, "SIGKILL")


async def stop_the_process(kubectl: Kubectl) -> None:
    await send_signal(kubectl, "SIGSTOP")


async def delete_the_pod(kubectl: Kubectl) -> None:
    await kubectl("delete", "pod", await one_pod(kubectl), "--force", "--grace-period=0")


async def change_the_spec(kubectl: Kubectl) -> None:
    annotations = {"metadata": {"annotations": {"changed": "yes"}}}
    pod_template = {"spec": {"shareProcessNamespace": True}} | annotations
    await kubectl.patch("oim/fleet", {"spec": {"podTemplate": pod_template}})


@pytest.mark.parametrize(
    "disturb",
    [kill_the_process, delete_the_pod, stop_the_process, change_the_spec],
    ids=lambda disturb: disturb.__name__,
)
async def test_a_disturbed_pod_costs_no_request_and_no_token(
    installation: Installation,
    fleet: Kubectl,
    undisturbed: dict[str, str],
    disturb: Callable[[Kubectl], Awaitable[None]],
) -> None:
    await fleet.until("oim/fleet", lambda oim: status(oim).get("readyReplicas") == 3, 180)
    async with installation.doors("fleet") as doors:
        await until_the_gateway_has(doors, 3)
        traffic = doors.start(STREAMS, TOKENS)
        await traffic.under_way()
        await disturb(fleet)
        await traffic.ended()
        assert not traffic.failures
        assert traffic.texts == undisturbed
        await until_no_block_is_held(doors)
    await fleet.until("oim/fleet", is_ready, 180)


async def test_a_killed_gateway_costs_only_its_own_streams(
    installation: Installation, fleet: Kubectl, undisturbed: dict[str, str]
) -> None:
    await fleet.until("oim/fleet", lambda oim: status(oim).get("readyReplicas") == 3, 180)
    async with installation.doors("fleet", connections=12) as doors:
        victim = doors.gateways[0]
        assert len(set(doors.gateways)) == 2, "twelve connections reach both gateways"
        traffic = doors.start(STREAMS, TOKENS, doors=("generate", "session"))
        await traffic.under_way()
        await installation.kubectl("delete", "pod", victim, "--force", "--grace-period=0")
        streams = await traffic.ended()
    others = [stream for stream in streams if stream.gateway != victim]
    assert others
    assert [stream.error for stream in others if stream.error] == []
    assert {s.prompt: s.text for s in others} == {s.prompt: undisturbed[s.prompt] for s in others}
    async with installation.doors("fleet") as doors:
        await until_no_block_is_held(doors)


async def until_the_gateway_has(doors: Doors, count: int) -> None:
    async with asyncio.timeout(60):
        while sum(bool(pod.load.total_blocks) for pod in await doors.pods()) < count:
            await asyncio.sleep(0.2)
