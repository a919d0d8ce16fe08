"""`octavo top` finds out what a server is, and lives through what happens to it."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import pytest

from octavo.service.failures import ServerError
from octavo.service.top import feed
from octavo.service.top.feed import Trouble, first, snapshots, watch
from octavo.service.top.snapshot import Snapshot, as_dict
from tests.service.top.conftest import FakeGateway, FakePod, Servers, load, pod, pods

NOBODY = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "PAUSE", 0.05)


async def test_a_gateway_tells_of_its_pods(servers: Servers) -> None:
    gateway = FakeGateway([pods(pod("b:1"), pod("a:1", "DRAINING", in_flight=4), waiting=2)])
    address = await servers.start(gateway)
    told = [snapshot async for snapshot in snapshots(address, 0.25)]
    assert gateway.intervals == [0.25]
    (snapshot,) = told
    assert (snapshot.kind, snapshot.server) == ("gateway", address)
    (model,) = snapshot.models
    assert (model.name, model.waiting) == ("smollm2", 2)
    assert [(found.address, found.state, found.in_flight) for found in model.pods] == [
        ("a:1", "draining", 4),
        ("b:1", "serving", 0),
    ]


async def test_a_pod_tells_of_itself(servers: Servers) -> None:
    address = await servers.start(FakePod(load(held=25), load(draining=True)))
    busy, leaving = [snapshot async for snapshot in snapshots(address, 1)]
    assert busy.kind == "pod"
    assert [model.name for model in busy.models] == ["tiny"]
    assert (busy.pods[0].address, busy.pods[0].state, busy.pods[0].in_flight) == (address, "serving", None)
    assert busy.pods[0].held == 0.25
    assert leaving.pods[0].state == "draining"


async def test_the_first_server_that_answers_is_shown(servers: Servers) -> None:
    address = await servers.start(FakePod(load()))
    assert (await first([NOBODY, address])).server == address


async def test_nobody_there_is_an_error_with_every_address() -> None:
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:1: UNAVAILABLE.*127\.0\.0\.1:2: UNAVAILABLE"):
        await first([NOBODY, "127.0.0.1:2"])


async def test_a_server_that_comes_back_is_shown_again(servers: Servers) -> None:
    address = await servers.start(FakeGateway([pods(pod())]))
    async with asyncio.timeout(10), aclosing(watch([address], 1)) as news:
        assert isinstance(await anext(news), Snapshot)
        await servers.stop(address)
        trouble = await anext(news)
        assert isinstance(trouble, Trouble)
        assert address in trouble.message
        await servers.start(FakeGateway([pods(pod(), pod("10.0.0.2:50051"))]), address)
        while isinstance(told := await anext(news), Trouble):
            pass
        assert len(told.pods) == 2


async def test_a_silent_server_is_trouble(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "PATIENCE", 0.2)

    class Silent(FakeGateway):
        async def WatchPods(self, request, context):  # type: ignore[no-untyped-def]
            await asyncio.sleep(60)
            yield pods()

    address = await servers.start(Silent([pods()]))
    with pytest.raises(ServerError, match=r"nothing heard for 0\.3 s"):
        await anext(snapshots(address, 0.1))


async def test_json_has_every_figure_as_a_number(servers: Servers) -> None:
    address = await servers.start(FakeGateway([pods(pod(load=load(held=30, total_output_tokens=2**40)))]))
    told = json.loads(json.dumps(as_dict(await first([address]))))
    (found,) = told["models"][0]["pods"]
    assert found["kv_utilization"] == 0.3
    assert found["load"]["total_output_tokens"] == 2**40
    assert found["load"]["draining"] is False
