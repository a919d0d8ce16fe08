"""Ranks that share memory: what one writes all read, and nobody waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pytest

from octavo.engine.errors import RankLost
from octavo.engine.parallel import exchange as exchange_module
from octavo.engine.parallel.exchange import Exchange, create, is_possible

pytestmark = pytest.mark.skipif(not is_possible(), reason="stores are not ordered here")
T = TypeVar("T")


@pytest.fixture
def memory() -> Iterator[int]:
    with create(3) as file:
        yield file.fileno()


def by_threads(count: int, what: Callable[[int], T]) -> list[T]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(what, range(count)))


def test_all_read_what_each_has_written_turn_by_turn(memory: int) -> None:
    """Ranks of different speed: the fast one may write its next slot while the others read."""

    def rank(number: int) -> list[list[int]]:
        exchange, seen = Exchange(memory, number, 3), []
        for turn in range(200):
            slots = exchange.sets[exchange.next_set]
            slots[number].view(np.int64)[:1000] = 1000 * number + turn
            exchange.meet()
            if (turn + number) % 50 == 0:
                time.sleep(0.001)
            values = [slot.view(np.int64)[:1000] for slot in slots]
            assert all((value == value[0]).all() for value in values)
            seen.append([int(value[0]) for value in values])
        return seen

    expected = [[turn, 1000 + turn, 2000 + turn] for turn in range(200)]
    assert by_threads(3, rank) == [expected] * 3


def test_a_rank_that_does_not_come_is_named(memory: int) -> None:
    def rank(number: int) -> str:
        exchange = Exchange(memory, number, 3, patience=0.2)
        if number == 1:
            return ""
        with pytest.raises(RankLost) as caught:
            exchange.meet()
        return str(caught.value)

    zero, _, two = by_threads(3, rank)
    assert zero.startswith("rank 1 has kept the others waiting for 0.")
    assert two.startswith("rank 1 has kept the others waiting for 0.")


def test_who_was_stopped_itself_has_not_waited(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock jumps by a minute, once, before the others come."""
    exchanges = [Exchange(memory, number, 3, patience=1.0) for number in range(3)]
    jumped = threading.Event()
    real = time.monotonic

    def clock() -> float:
        return real() + 60 * jumped.is_set()

    monkeypatch.setattr(exchange_module.time, "monotonic", clock)
    threading.Timer(0.1, jumped.set).start()

    def rank(number: int) -> None:
        if number > 0:
            jumped.wait()
            time.sleep(0.2)
        exchanges[number].meet()

    by_threads(3, rank)


def test_nobody_waits_any_longer_once_rank_0_has_given_up(memory: int) -> None:
    exchanges = [Exchange(memory, number, 3) for number in range(3)]
    threading.Timer(0.1, exchanges[0].abandon).start()

    def rank(number: int) -> None:
        if number != 2:
            with pytest.raises(RankLost, match="given up"):
                exchanges[number].meet()

    by_threads(3, rank)
