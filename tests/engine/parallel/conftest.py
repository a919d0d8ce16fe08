"""Rank processes that are started once for all tests, since each imports torch; models are loaded in turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from octavo.engine import LLM
from octavo.engine.parallel import runner
from octavo.engine.parallel.ranks import Ranks


class Pool:
    """Ranks by their number, 0 in this process included."""

    def __init__(self) -> None:
        self._started: dict[int, Ranks] = {}

    def __call__(self, size: int) -> Ranks:
        if size not in self._started:
            self._started[size] = Ranks(size)
        return self._started[size]

    def close(self) -> None:
        for ranks in self._started.values():
            ranks.close()


class OnRanks(Protocol):
    def __call__(self, path: Path, size: int, **settings: Any) -> LLM: ...


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    pool = Pool()
    yield pool
    pool.close()


@pytest.fixture
def on_ranks(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> OnRanks:
    """A model of float32 on some ranks, by PyTorch if not told otherwise.

    Of each number, the last one made is the one to use.
    """
    monkeypatch.setattr(runner, "Ranks", pool)

    def make(path: Path, size: int, **settings: Any) -> LLM:
        defaults = {"runner": "torch", "dtype": "float32", "threads": 1, "kv_cache_memory": "4Mi"}
        return LLM(str(path), tensor_parallel_size=size, **(defaults | settings))

    return make
