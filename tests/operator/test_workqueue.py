"""A model is worked on once for many events, never twice at a time, and ever later while it fails."""

from __future__ import annotations

import asyncio

from octavo.operator.workqueue import WorkQueue

SOON = 0.01


async def is_empty(queue: WorkQueue[str]) -> bool:
    try:
        async with asyncio.timeout(10 * SOON):
            await queue.next()
    except TimeoutError:
        return True
    return False


async def test_many_events_are_one_piece_of_work() -> None:
    queue = WorkQueue[str](SOON)
    for _ in range(5):
        queue.add("a")
    assert await queue.next() == "a"
    queue.done("a")
    assert await is_empty(queue)


async def test_what_happens_meanwhile_is_worked_on_afterwards() -> None:
    queue = WorkQueue[str](SOON)
    queue.add("a")
    await queue.next()
    queue.add("a")
    assert await is_empty(queue)
    queue.done("a")
    assert await queue.next() == "a"


async def test_failures_come_again_ever_later() -> None:
    queue = WorkQueue[str](0)
    queue.add("a")
    delays = []
    for _ in range(3):
        await queue.next()
        delays.append(queue.failed("a"))
        queue.hasten("a")
        queue._failures["a"] = len(delays)
    assert delays == [0.5, 1.0, 2.0]


async def test_an_event_does_not_shorten_the_wait_after_a_failure_but_a_change_does() -> None:
    queue = WorkQueue[str](0)
    queue.add("a")
    await queue.next()
    queue.failed("a")
    queue.add("a")
    assert await is_empty(queue)
    queue.hasten("a")
    assert await queue.next() == "a"
