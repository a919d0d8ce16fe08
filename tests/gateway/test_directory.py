"""The directory: a pool for each model that a source of endpoints tells of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from octavo.engine import InvalidRequest
from octavo.service.gateway.directory import Directory
from octavo.service.gateway.endpoints.source import Route
from octavo.service.gateway.picker import Query
from octavo.service.gateway.pool import Pool
from octavo.service.rpc.refusals import Unavailable, UnknownModel

WAITS = Route(frozenset(), waits=True)


class Told:
    """A source that tells what the test says."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Mapping[str, Route]] = asyncio.Queue()

    async def routes(self) -> AsyncIterator[Mapping[str, Route]]:
        while True:
            yield await self.queue.get()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def directory(told: Told) -> AsyncIterator[Directory]:
    directory = Directory(told)
    await directory.start()
    yield directory
    await directory.stop()


async def tell(told: Told, directory: Directory, *models: str) -> None:
    told.queue.put_nowait(dict.fromkeys(models, WAITS))
    async with asyncio.timeout(1):
        while {pool.model for pool in directory.pools()} != set(models) or not directory.ready:
            await asyncio.sleep(0)


async def test_every_model_is_unavailable_until_the_source_has_told(directory: Directory) -> None:
    assert not directory.ready
    with pytest.raises(Unavailable):
        directory.pool("a")


async def test_a_model_s_pool_stays_the_same_while_the_source_tells_of_it(
    told: Told, directory: Directory
) -> None:
    await tell(told, directory, "a")
    before = directory.pool("a")
    await tell(told, directory, "a", "b")
    assert directory.pool("a") is before
    assert [pool.model for pool in directory.pools()] == ["a", "b"]


async def test_no_name_is_the_only_model(told: Told, directory: Directory) -> None:
    await tell(told, directory, "a")
    assert directory.pool("").model == "a"
    await tell(told, directory, "a", "b")
    with pytest.raises(InvalidRequest, match="model: must be set, to one of 'a', 'b'"):
        directory.pool("")


async def test_an_unknown_model_is_refused_with_the_names_there_are(told: Told, directory: Directory) -> None:
    await tell(told, directory, "a", "b")
    with pytest.raises(UnknownModel, match="must be one of 'a', 'b'") as caught:
        directory.pool("c")
    assert caught.value.violations[0].field == "model"


async def test_who_waits_for_a_model_that_is_no_longer_served_is_refused(
    told: Told, directory: Directory
) -> None:
    await tell(told, directory, "a")
    waiting = asyncio.create_task(directory.pool("a").pick(Query(), 60))
    await asyncio.sleep(0)
    await tell(told, directory)
    with pytest.raises(Unavailable):
        await waiting


async def test_listeners_hear_of_demand_in_any_pool(told: Told, directory: Directory) -> None:
    heard: list[tuple[str, int]] = []

    def listen(pool: Pool) -> None:
        heard.append((pool.model, pool.waiting))

    directory.on_demand_change(listen)
    await tell(told, directory, "a", "b")
    with pytest.raises(Unavailable):
        await directory.pool("b").pick(Query(), 0.01)
    assert heard == [("b", 1), ("b", 0)]
