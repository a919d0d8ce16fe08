"""Ranks share out the processors that are granted to them, neighbours of one node to each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from octavo.engine.runners.native.processors import Processors


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of eight processors, of which the even ones are on one socket and the odd ones on another."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for cpu in range(8):
        (tmp_path / f"sys/devices/system/cpu/cpu{cpu}/node{cpu % 2}").mkdir(parents=True)
    return tmp_path


def test_each_of_two_ranks_has_a_socket(eight: Path) -> None:
    assert Processors.of(0, 2, root=eight) == Processors(4, (0, 2, 4, 6))
    assert Processors.of(1, 2, root=eight) == Processors(4, (1, 3, 5, 7))


def test_what_cannot_be_shared_equally_is_left(eight: Path) -> None:
    assert [Processors.of(rank, 3, root=eight).cpus for rank in range(3)] == [(0, 2), (4, 6), (1, 3)]


def test_a_quota_is_shared_but_has_no_places(eight: Path) -> None:
    group = eight / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("400000 100000")
    (eight / "proc/self").mkdir(parents=True)
    (eight / "proc/self/cgroup").write_text("0::/\n")
    assert Processors.of(1, 2, root=eight) == Processors(2, ())


def test_threads_that_are_asked_for_have_places_where_they_are_all(eight: Path) -> None:
    assert Processors.of(1, 2, 4, root=eight).cpus == (1, 3, 5, 7)
    assert Processors.of(1, 2, 3, root=eight) == Processors(3, ())


def test_more_ranks_than_processors_have_a_thread_each(eight: Path) -> None:
    assert Processors.of(9, 16, root=eight) == Processors(1, ())
