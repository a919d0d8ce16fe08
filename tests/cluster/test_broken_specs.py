"""A change that cannot work is told within thirty seconds, and the old pods keep serving."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.cluster.conftest import Installation, inference_model
from tests.cluster.kubectl import Kubectl, condition, is_ready, run

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one loop for the fixtures of the module
BROKEN = {
    "an image that does not exist": ({"engine": {"image": "localhost/nowhere:none"}}, "nowhere:none"),
    "a model that is not there": ({"model": {"uri": "file:///nowhere"}}, "/nowhere"),
    "an argument that does not exist": ({"engine": {"extraArgs": ["--no-such-flag"]}}, "--no-such-flag"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kubectl(installation: Installation) -> AsyncIterator[Kubectl]:
    """The namespace of one model, which every test mends again."""
    kubectl = Kubectl("octavo-test-fragile")
    await run("kubectl", "create", "namespace", kubectl.namespace)
    try:
        await kubectl.apply(inference_model("fragile"))
        await kubectl.until("oim/fragile", is_ready, 120)
        yield kubectl
    finally:
        await run("kubectl", "delete", "namespace", kubectl.namespace, seconds=180)


@pytest.mark.parametrize("what", BROKEN)
async def test_a_broken_change_is_degraded_and_the_old_pods_serve(
    installation: Installation, kubectl: Kubectl, what: str
) -> None:
    change, clue = BROKEN[what]
    before = (await kubectl.get("oim", "fragile"))["spec"]
    began = time.monotonic()
    await kubectl.patch("oim/fragile", {"spec": change})
    oim = await kubectl.until("oim/fragile", lambda oim: condition(oim, "Degraded")[0] == "True", 30)
    assert time.monotonic() - began < 30
    assert clue in message(oim, "Degraded")

    async with installation.doors("fragile") as doors:
        traffic = doors.start(6, 8)
        await traffic.ended()
        assert not traffic.failures

    repaired = {key: before[key] for key in change}
    if "image" in repaired.get("engine", {}) or "engine" in change:
        repaired["engine"] = {**dict.fromkeys(change["engine"]), **before["engine"]}
    await kubectl.patch("oim/fragile", {"spec": repaired})
    mended = await kubectl.until(
        "oim/fragile", lambda oim: is_ready(oim) and condition(oim, "Degraded")[0] == "False", 60
    )
    assert mended["status"]["readyReplicas"] == 1


def message(resource: dict[str, Any], kind: str) -> str:
    return next(str(c["message"]) for c in resource["status"]["conditions"] if c["type"] == kind)
