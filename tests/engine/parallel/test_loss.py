"""A rank that ends or hangs is noticed within seconds, and whoever waits is told."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from octavo.engine import EngineConfig, EngineStopped, SamplingParams
from octavo.engine.async_engine import AsyncEngine
from octavo.engine.batch import Batch
from octavo.engine.engine import Engine
from octavo.engine.errors import RankLost
from octavo.engine.loading import load_engine
from octavo.engine.models.source import open_model
from octavo.engine.parallel.exchange import Exchange
from octavo.engine.parallel.ranks import Ranks
from octavo.engine.runners import Shared
from tests.conftest import TinyModel


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    """Three ranks that have been given no model, so that they are there at once."""
    ranks = Ranks(3)
    yield ranks
    ranks.close()


def until(holds: Callable[[], Any], seconds: float) -> float:
    """Seconds until something holds; an AssertionError if it takes too long."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds
        time.sleep(0.01)
    return time.monotonic() - began


def is_running(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def told_of(ranks: Ranks) -> list[RankLost]:
    told: list[RankLost] = []
    ranks.watch.tell(told.append)
    return told


def test_one_that_is_killed_takes_the_others_with_it(ranks: Ranks) -> None:
    told = told_of(ranks)
    first, second = ranks.process_ids
    os.kill(second, signal.SIGKILL)
    until(lambda: told, 2)
    assert str(told[0]) == "rank 2 was ended by SIGKILL"
    until(lambda: not is_running(first), 2)
    with pytest.raises(RankLost, match="rank 2 was ended by SIGKILL"):
        ranks.run(b"")
    assert told_of(ranks) == told, "who comes late is told at once"


def test_one_that_stands_still_is_lost_within_five_seconds(ranks: Ranks) -> None:
    told = told_of(ranks)
    time.sleep(0.5)
    ranks.watch.judges_silence = True
    os.kill(ranks.process_ids[0], signal.SIGSTOP)
    assert until(lambda: told, 5) > 2
    assert str(told[0]) == "rank 1 has said nothing for 3 s"
    until(lambda: not any(map(is_running, ranks.process_ids)), 2)


def test_what_fails_first_is_told_by_its_reason(ranks: Ranks) -> None:
    """Rank 0 finds a closed connection before it knows why."""
    os.kill(ranks.process_ids[1], signal.SIGKILL)

    def run_on() -> None:
        while True:
            ranks.run(b"")

    with pytest.raises(RankLost, match=r"^rank 2 was ended by SIGKILL$"):
        run_on()


def test_what_rank_0_leaves_ends_for_all(ranks: Ranks) -> None:
    lost = ranks.watch.give_up(MemoryError("no more"))
    assert str(lost) == "rank 0 has left a step: MemoryError: no more"
    until(lambda: not any(map(is_running, ranks.process_ids)), 2)


def test_rank_0_does_not_wait_for_the_lost(ranks: Ranks) -> None:
    exchange = ranks._exchange
    assert isinstance(exchange, Exchange)
    threading.Timer(0.2, os.kill, (ranks.process_ids[0], signal.SIGKILL)).start()
    began = time.monotonic()
    with pytest.raises(RankLost, match="given up"):
        exchange.meet()
    assert time.monotonic() - began < 2


def test_closed_ranks_end_and_are_not_lost() -> None:
    ranks = Ranks(3)
    told = told_of(ranks)
    processes = ranks.process_ids
    ranks.close()
    assert not any(map(is_running, processes))
    assert not told


def test_ranks_end_with_what_started_them() -> None:
    ranks = Ranks(2)
    processes = ranks.process_ids
    del ranks
    until(lambda: not any(map(is_running, processes)), 3)


class Stuck:
    """A runner on several ranks that waits for one which will never come."""

    def __init__(self, inner: Any) -> None:
        self.device, self.dtype, self.block_bytes = inner.device, inner.dtype, inner.block_bytes
        self.lose: list[Callable[[RankLost], None]] = []
        self.waits = threading.Event()
        self.is_closed = False

    def run(self, batch: Batch) -> None:
        self.waits.set()
        threading.Event().wait()

    def watch(self, on_loss: Callable[[RankLost], None]) -> None:
        self.lose.append(on_loss)

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def stuck(tiny_model: TinyModel) -> tuple[AsyncEngine, Stuck]:
    files = open_model(str(tiny_model("llama")))
    config = EngineConfig(kv_cache_memory="4Mi")
    inner = load_engine(files, config)
    runner = Stuck(inner._runner)
    assert isinstance(runner, Shared)
    return AsyncEngine(Engine(runner, inner.model, config), files.tokenizer(), config), runner  # type: ignore[arg-type]


async def test_streams_end_even_if_the_engine_s_thread_never_comes_back(
    stuck: tuple[AsyncEngine, Stuck],
) -> None:
    engine, runner = stuck
    await engine.start()
    stream = engine.submit([5, 6, 7], SamplingParams())
    await asyncio.to_thread(runner.waits.wait)
    runner.lose[0](RankLost("rank 1 was ended by SIGKILL"))
    with pytest.raises(EngineStopped, match="the engine has failed: rank 1 was ended by SIGKILL"):
        async for _ in stream:
            pass
    assert engine.failed.is_set()
    with pytest.raises(EngineStopped, match="rank 1"):
        engine.submit([5], SamplingParams())
    await asyncio.wait_for(engine.stop(), 3)
    assert runner.is_closed


async def test_a_loss_is_noticed_while_nothing_is_computed(stuck: tuple[AsyncEngine, Stuck]) -> None:
    engine, runner = stuck
    await engine.start()
    runner.lose[0](RankLost("rank 1 was ended by SIGKILL"))
    await asyncio.wait_for(engine.failed.wait(), 1)
    await asyncio.wait_for(engine.stop(), 3)
