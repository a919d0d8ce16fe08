"""What the gateway tells Kubernetes about requests that wait for a model without pods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from octavo.service.gateway.demand import DemandPublisher
from octavo.service.gateway.directory import Directory
from octavo.service.gateway.endpoints.source import Route
from octavo.service.gateway.picker import Query
from octavo.service.rpc.refusals import Unavailable
from tests.gateway.api_server import ApiServer

RENEWAL = 0.7


class OneModel:
    async def routes(self) -> AsyncIterator[Mapping[str, Route]]:
        yield {"chat": Route(frozenset(), waits=True)}
        await asyncio.Event().wait()


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    server = await ApiServer().start()
    await server.put("inferencemodels", {"metadata": {"name": "m", "namespace": "ns"}})
    yield server
    await server.stop()


@pytest.fixture
async def directory() -> AsyncIterator[Directory]:
    directory = Directory(OneModel())
    await directory.start()
    yield directory
    await directory.stop()


@pytest.fixture
async def publisher(server: ApiServer, directory: Directory) -> AsyncIterator[DemandPublisher]:
    api = server.api()
    publisher = DemandPublisher(api, directory, {"chat": ("ns", "m")}.get, "gw-0", renewal=RENEWAL)
    await publisher.start()
    while not directory.ready:
        await asyncio.sleep(0)
    yield publisher
    await publisher.stop()
    await api.close()


async def until(holds: Callable[[], object], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.005)


def demand(server: ApiServer) -> Any:
    return server.applied[-1][2]["status"]["demand"] if server.applied else None


async def wait(directory: Directory, patience: float = 60) -> None:
    with pytest.raises(Unavailable):
        await directory.pool("chat").pick(Query(), patience)


@pytest.mark.usefixtures("publisher")
async def test_the_first_request_that_waits_is_told_at_once(server: ApiServer, directory: Directory) -> None:
    waiting = asyncio.create_task(wait(directory))
    await until(lambda: server.applied, 0.4)
    name, manager, body = server.applied[0]
    assert (name, manager) == ("m", "octavo-gateway-gw-0")
    assert body["metadata"] == {"name": "m", "namespace": "ns"}
    (entry,) = body["status"]["demand"]
    assert (entry["gateway"], entry["waiting"]) == ("gw-0", 1)
    assert entry["renewedAt"].endswith("Z")
    waiting.cancel()


@pytest.mark.usefixtures("publisher")
async def test_demand_is_renewed_while_it_stands_and_taken_back_after(
    server: ApiServer, directory: Directory
) -> None:
    waiting = [asyncio.create_task(wait(directory)) for _ in range(3)]
    await until(lambda: len(server.applied) >= 2)
    assert demand(server)[0]["waiting"] == 3
    for request in waiting:
        request.cancel()
    await until(lambda: demand(server) == [])
    told = len(server.applied)
    await asyncio.sleep(RENEWAL * 2)
    assert len(server.applied) == told


@pytest.mark.usefixtures("publisher")
async def test_many_short_waits_are_not_told_one_by_one(server: ApiServer, directory: Directory) -> None:
    for _ in range(50):
        await wait(directory, 0.01)
    assert len(server.applied) <= 4


@pytest.mark.usefixtures("publisher")
async def test_demand_is_told_once_the_server_is_back(server: ApiServer, directory: Directory) -> None:
    await server.stop()
    waiting = asyncio.create_task(wait(directory))
    await asyncio.sleep(0.2)
    await server.start()
    await until(lambda: demand(server))
    waiting.cancel()


async def test_a_gateway_that_ends_takes_its_demand_back(
    server: ApiServer, directory: Directory, publisher: DemandPublisher
) -> None:
    waiting = asyncio.create_task(wait(directory))
    await until(lambda: demand(server))
    await publisher.stop()
    assert demand(server) == []
    waiting.cancel()


@pytest.mark.usefixtures("publisher")
async def test_a_resource_that_is_gone_is_nobody_s_trouble(server: ApiServer, directory: Directory) -> None:
    del server.objects["inferencemodels", "ns", "m"]
    await wait(directory, 0.1)
    await asyncio.sleep(0.7)
    assert not server.applied
