"""Pods of several ranks: one that loses a rank is started anew, and the gateway moves its streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.cluster.conftest import Installation, inference_model, until_no_block_is_held
from tests.cluster.kubectl import Kubectl, is_ready, run, status
from tests.cluster.test_nothing_lost import until_the_gateway_has

pytestmark = pytest.mark.asyncio(loop_scope="module")
STREAMS, TOKENS = 12, 40
KILL_A_RANK = (
    "import os, pathlib, signal\n"
    "for entry in pathlib.Path('/proc').glob('[0-9]*'):\n"
    "    if b'octavo.engine.parallel.rank' in (entry / 'cmdline').read_bytes():\n"
    "        os.kill(int(entry.name), signal.SIGKILL)\n"
    "        break"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ranks(installation: Installation) -> AsyncIterator[Kubectl]:
    """Two pods of three ranks each, which divide the small model's nine query heads."""
    kubectl = Kubectl("octavo-test-ranks")
    await run("kubectl", "create", "namespace", kubectl.namespace)
    try:
        await kubectl.apply(
            inference_model(
                "ranks",
                scaling={"minReplicas": 2, "maxReplicas": 2},
                parallelism={"tensor": 3, "device": "cpu"},
            )
        )
        await kubectl.until("oim/ranks", lambda oim: status(oim).get("readyReplicas") == 2, 300)
        yield kubectl
    finally:
        await run("kubectl", "delete", "namespace", kubectl.namespace, seconds=180)


async def pods(kubectl: Kubectl) -> dict[str, dict[str, Any]]:
    """The state of each pod's engine, by the pod's name."""
    found = await kubectl.list("pods", "-l", "serving.octavo.dev/model=ranks")
    return {pod["metadata"]["name"]: pod["status"]["containerStatuses"][0] for pod in found}


async def test_a_killed_rank_costs_no_request_and_its_pod_starts_anew(
    installation: Installation, ranks: Kubectl
) -> None:
    victim = next(iter(await pods(ranks)))
    async with installation.doors("ranks") as doors:
        await until_the_gateway_has(doors, 2)
        traffic = doors.start(STREAMS, TOKENS)
        await traffic.under_way()
        await ranks("exec", victim, "--", "python", "-c", KILL_A_RANK)
        streams = await traffic.ended()
        assert not traffic.failures
        assert all(stream.finished and stream.text for stream in streams)
        await until_no_block_is_held(doors)
    await ranks.until(f"pod/{victim}", lambda pod: pod["status"]["containerStatuses"][0]["ready"], 300)
    engine = (await pods(ranks))[victim]
    assert engine["restartCount"] == 1
    assert engine["lastState"]["terminated"]["exitCode"] == 1
    await ranks.until("oim/ranks", is_ready, 60)
