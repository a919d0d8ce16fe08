"""One operator acts at a time: the one that holds the lease, and only while it surely does."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from octavo.operator.cluster import ApiError
from octavo.operator.lease import Lease, Terms
from tests.operator.api import FakeCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TERMS = Terms(duration=1, renew_deadline=0.5, retry=0.05)


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


def candidate(cluster: FakeCluster, name: str) -> Lease:
    return Lease(cluster, "lab", "octavo-operator", name, TERMS)  # type: ignore[arg-type]


@asynccontextmanager
async def running(lease: Lease) -> AsyncIterator[Lease]:
    task = asyncio.create_task(lease.run())
    try:
        yield lease
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_the_first_one_gets_it_and_the_second_waits(cluster: FakeCluster) -> None:
    async with running(candidate(cluster, "a")) as a, running(candidate(cluster, "b")) as b:
        await asyncio.wait_for(a.gained(), 1)
        await asyncio.sleep(TERMS.duration * 1.5)
        assert (a.held, b.held) == (True, False)
        assert b.holder == "a"


async def test_a_holder_that_is_gone_is_followed_when_its_time_has_passed(cluster: FakeCluster) -> None:
    async with running(candidate(cluster, "a")) as a:
        await asyncio.wait_for(a.gained(), 1)
    async with running(candidate(cluster, "b")) as b:
        await asyncio.sleep(TERMS.duration / 2)
        assert not b.held
        await asyncio.wait_for(b.gained(), TERMS.duration * 2)


async def test_a_released_lease_is_taken_at_once(cluster: FakeCluster) -> None:
    async with running(candidate(cluster, "a")) as a:
        await asyncio.wait_for(a.gained(), 1)
    await a.release()
    assert not a.held
    async with running(candidate(cluster, "b")) as b:
        await asyncio.wait_for(b.gained(), TERMS.duration / 2)


async def test_a_holder_that_cannot_renew_stops_before_another_may_begin(cluster: FakeCluster) -> None:
    async with running(candidate(cluster, "a")) as a:
        await asyncio.wait_for(a.gained(), 1)
        cluster.refusals["Lease"] = ApiError(0, "Unreachable", "the API server does not answer")
        await asyncio.sleep(TERMS.renew_deadline + 2 * TERMS.retry)
        assert not a.held
        cluster.refusals.clear()
        await asyncio.wait_for(a.gained(), 1)
