"""A pool: pods that come, fill, drain, fail, fall silent and go, and requests that wait for one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import pytest

from octavo.service.gateway.endpoints.source import Route
from octavo.service.gateway.picker import Query
from octavo.service.gateway.pod import PodSettings
from octavo.service.gateway.pool import Pool
from octavo.service.rpc.refusals import Unavailable
from octavo.v1 import gateway_pb2
from tests.gateway.pods import FakePod

FAST = PodSettings(interval=0.02, hang_timeout=0.3, first_ejection=0.2)
StartPod = Callable[[], Awaitable[FakePod]]
MakePool = Callable[..., Pool]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def start_pod(stack: AsyncExitStack) -> StartPod:
    async def start() -> FakePod:
        pod = await FakePod().start()
        stack.push_async_callback(pod.die)
        return pod

    return start


@pytest.fixture
def make_pool(stack: AsyncExitStack) -> MakePool:
    """Makes a pool of pods; keywords are fields of its Route and arguments of Pool."""

    def make(*pods: FakePod, waits: bool = False, **arguments: Any) -> Pool:
        pool = Pool("tiny", route(*pods, waits=waits), Random(0), settings=FAST, **arguments)
        stack.push_async_callback(pool.close)
        return pool

    return make


def route(*pods: FakePod, waits: bool = False) -> Route:
    return Route(frozenset(pod.address for pod in pods), waits=waits)


async def until(holds: Callable[[], object], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.005)


def state_of(pool: Pool, pod: FakePod) -> int:
    return next((row.state for row in pool.snapshot().pods if row.address == pod.address), 0)


async def serving(pool: Pool, *pods: FakePod) -> None:
    await until(lambda: all(state_of(pool, pod) == gateway_pb2.POD_STATE_SERVING for pod in pods))


async def test_a_request_waits_for_the_first_report(start_pod: StartPod, make_pool: MakePool) -> None:
    pod = await start_pod()
    pick = await make_pool(pod).pick(Query(), 5)
    assert pick.pod.address == pod.address
    assert pick.num_candidates == 1
    assert set(pick.scores) >= {"kvUtilization", "waitingTokens", "sessionAffinity", "total"}


async def test_picks_follow_the_loads_that_pods_report(start_pod: StartPod, make_pool: MakePool) -> None:
    full, free = await start_pod(), await start_pod()
    full.load.held_blocks = 900
    pool = make_pool(full, free)
    await serving(pool, full, free)
    assert {(await pool.pick(Query(prompt_tokens=1), 0)).pod.address for _ in range(5)} == {free.address}


async def test_a_burst_spreads_before_any_report_tells_of_it(
    start_pod: StartPod, make_pool: MakePool
) -> None:
    pods = [await start_pod() for _ in range(3)]
    pool = make_pool(*pods)
    await serving(pool, *pods)
    picks = [await pool.pick(Query(prompt_tokens=100), 0) for _ in range(30)]
    assert sorted(Counter(pick.pod.address for pick in picks).values()) == [10, 10, 10]


async def test_the_snapshot_tells_state_load_and_requests_under_way(
    start_pod: StartPod, make_pool: MakePool
) -> None:
    pod = await start_pod()
    pod.load.held_blocks = 7
    pool = make_pool(pod)
    pick = await pool.pick(Query(), 5)
    (row,) = pool.snapshot().pods
    assert (row.address, row.in_flight, row.load.held_blocks) == (pod.address, 1, 7)
    assert row.load_age.ToNanoseconds() < 1e9
    pick.done()
    assert pool.snapshot().pods[0].in_flight == 0


async def test_a_draining_pod_gets_nothing_new_and_keeps_what_it_has(
    start_pod: StartPod, make_pool: MakePool
) -> None:
    leaving, staying = await start_pod(), await start_pod()
    pool = make_pool(leaving)
    pick = await pool.pick(Query(), 5)
    leaving.load.draining = True
    pool.set_route(route(leaving, staying))
    await until(lambda: state_of(pool, leaving) == gateway_pb2.POD_STATE_DRAINING)
    assert (await pool.pick(Query(), 5)).pod.address == staying.address
    assert not pick.lost.is_set()


async def test_a_pod_that_dies_is_lost_at_once_and_used_again_when_it_is_back(
    start_pod: StartPod, make_pool: MakePool
) -> None:
    pod = await start_pod()
    pool = make_pool(pod)
    before = await pool.pick(Query(), 5)
    await pod.die()
    async with asyncio.timeout(0.2):
        await before.lost.wait()
    with pytest.raises(Unavailable, match="ejected"):
        await pool.pick(Query(), 0)
    await pod.start()
    after = await pool.pick(Query(), 3)
    assert not after.lost.is_set()
    assert before.lost.is_set()


async def test_a_pod_that_falls_silent_is_lost_until_it_speaks_again(
    start_pod: StartPod, make_pool: MakePool
) -> None:
    pod = await start_pod()
    pool = make_pool(pod)
    pick = await pool.pick(Query(), 5)
    pod.silent = True
    async with asyncio.timeout(FAST.hang_timeout + 1):
        await pick.lost.wait()
    assert state_of(pool, pod) == gateway_pb2.POD_STATE_EJECTED
    pod.silent = False
    await serving(pool, pod)


async def test_a_pod_where_a_request_failed_is_ejected_for_longer_each_time(
    start_pod: StartPod, make_pool: MakePool
) -> None:
    pod = await start_pod()
    pool = make_pool(pod)
    loop = asyncio.get_running_loop()
    pauses = []
    for _ in range(3):
        (await pool.pick(Query(), 5)).done(failed=True)
        began = loop.time()
        await pool.pick(Query(), 5)
        pauses.append(loop.time() - began)
    assert pauses == pytest.approx([0.2, 0.4, 0.8], abs=0.15)


async def test_many_failures_at_once_eject_a_pod_once(start_pod: StartPod, make_pool: MakePool) -> None:
    pod = await start_pod()
    pool = make_pool(pod)
    picks = [await pool.pick(Query(), 5) for _ in range(10)]
    for pick in picks:
        pick.done(failed=True)
    async with asyncio.timeout(1):
        await pool.pick(Query(), 5)


async def test_what_failed_with_a_lost_connection_does_not_eject_the_next_one(
    start_pod: StartPod, make_pool: MakePool
) -> None:
    pod = await start_pod()
    pool = make_pool(pod)
    pick = await pool.pick(Query(), 5)
    await pod.die()
    await pick.lost.wait()
    await pod.start()
    await serving(pool, pod)
    pick.done(failed=True)
    assert state_of(pool, pod) == gateway_pb2.POD_STATE_SERVING


async def test_a_pod_that_is_no_longer_listed_is_left_when_its_requests_have_ended(
    start_pod: StartPod, make_pool: MakePool
) -> None:
    gone, stays = await start_pod(), await start_pod()
    pool = make_pool(gone)
    pick = await pool.pick(Query(), 5)
    pool.set_route(route(stays))
    assert (await pool.pick(Query(), 5)).pod.address == stays.address
    assert state_of(pool, gone) == gateway_pb2.POD_STATE_DRAINING
    assert gone.watchers == 1
    assert not pick.lost.is_set()
    pick.done()
    await until(lambda: not gone.watchers)
    assert state_of(pool, gone) == 0


async def test_a_pod_that_is_no_longer_listed_is_left_when_it_is_lost(
    start_pod: StartPod, make_pool: MakePool
) -> None:
    gone = await start_pod()
    pool = make_pool(gone, waits=True)
    pick = await pool.pick(Query(), 5)
    pool.set_route(Route(frozenset(), waits=True))
    await gone.die()
    await until(lambda: state_of(pool, gone) == 0)
    assert pick.lost.is_set()
    pick.done()


async def test_a_pod_that_is_listed_again_while_it_is_being_left_is_used_again(
    start_pod: StartPod, make_pool: MakePool
) -> None:
    pod = await start_pod()
    pool = make_pool(pod, waits=True)
    pick = await pool.pick(Query(), 5)
    pool.set_route(Route(frozenset(), waits=True))
    pool.set_route(route(pod))
    again = await pool.pick(Query(), 5)
    assert again.pod.address == pod.address
    pick.done()
    again.done()
    await until(lambda: pod.watchers == 1)


async def test_requests_wait_in_order_for_a_model_without_pods(
    start_pod: StartPod, make_pool: MakePool
) -> None:
    pool = make_pool(waits=True)
    served: list[int] = []

    async def request(number: int) -> None:
        (await pool.pick(Query(), 5)).done()
        served.append(number)

    async with asyncio.TaskGroup() as requests:
        for number in range(20):
            requests.create_task(request(number))
        await until(lambda: pool.waiting == 20)
        pool.set_route(route(await start_pod()))
    assert served == list(range(20))
    assert pool.waiting == 0


async def test_a_request_that_has_waited_long_enough_is_refused_with_a_time_to_retry(
    make_pool: MakePool,
) -> None:
    pool = make_pool(waits=True)
    with pytest.raises(Unavailable, match="'tiny' has no pod") as caught:
        await pool.pick(Query(), 0.05)
    assert caught.value.retry_after > 0
    assert pool.waiting == 0


async def test_nobody_waits_for_pods_that_will_not_come(make_pool: MakePool) -> None:
    async with asyncio.timeout(0.5):
        with pytest.raises(Unavailable):
            await make_pool(waits=False).pick(Query(), 60)


async def test_those_who_wait_are_refused_when_pods_will_not_come_any_longer(make_pool: MakePool) -> None:
    pool = make_pool(waits=True)
    waiting = asyncio.create_task(pool.pick(Query(), 60))
    await until(lambda: pool.waiting)
    pool.set_route(Route(frozenset()))
    with pytest.raises(Unavailable):
        await waiting


async def test_who_gives_up_leaves_nothing_behind(start_pod: StartPod, make_pool: MakePool) -> None:
    pool = make_pool(waits=True)
    waiting = [asyncio.create_task(pool.pick(Query(), 60)) for _ in range(3)]
    await until(lambda: pool.waiting == 3)
    waiting[0].cancel()
    await until(lambda: pool.waiting == 2)
    pool.set_route(route(await start_pod()))
    picks = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(picks[0], asyncio.CancelledError)
    assert pool.snapshot().pods[0].in_flight == 2


async def test_who_gives_up_in_the_moment_a_pod_is_found_gives_it_back(
    start_pod: StartPod, make_pool: MakePool
) -> None:
    pool = make_pool(waits=True)
    waiting = asyncio.create_task(pool.pick(Query(), 60))
    await until(lambda: pool.waiting)
    pool.set_route(route(await start_pod()))
    while pool.waiting:  # no pause longer than a turn of the loop, so that the task has not run since
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    if waiting.cancelled():
        assert pool.snapshot().pods[0].in_flight == 0


async def test_demand_is_told_when_the_first_begins_to_wait_and_when_none_does(
    start_pod: StartPod, make_pool: MakePool
) -> None:
    told: list[int] = []
    pool = make_pool(waits=True, demand_changed=lambda: told.append(pool.waiting))
    waiting = [asyncio.create_task(pool.pick(Query(), 60)) for _ in range(3)]
    await until(lambda: pool.waiting == 3)
    pool.set_route(route(await start_pod()))
    await asyncio.gather(*waiting)
    assert told == [1, 0]
