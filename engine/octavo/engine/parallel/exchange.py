"""Memory that ranks of one machine share: each writes into its own slot, all meet, each reads all slots.

A sum of [32, 576] float32 between two processes takes gloo 265 µs over the loopback interface, most of it to
be woken, and a step of a small model has sixty. Here nobody sleeps while the others are near: 26 µs
(`benchmarks/all_reduce.py`, two cores).

    ┌ counts ─────────────┬ slots of turn 0, 2, 4, … ─┬ slots of turn 1, 3, 5, … ─┐
    │ a cache line a rank │ rank 0 │ rank 1 │ …       │ rank 0 │ rank 1 │ …       │

What is native meets in the same way: `kernels/octavo/kernels/cpu/src/exchange.h`.

A rank that meets the others writes the number of its turn into its count and waits until theirs are as high.
Whoever has come to turn t has read all it wanted of turn t − 1, so with two sets of slots in turn none is
written while somebody may still read it.
"""

from __future__ import annotations

import mmap
import os
import platform
import time
from typing import BinaryIO

import numpy as np

from octavo.engine.errors import RankLost

SLOT_BYTES = 4 << 20
"""Of a rank, in each set. Pages that nobody writes to take no memory."""
LINE = 64
ABANDONED = 1
"""Where in the counts stands whether nobody needs to wait any longer: behind rank 0's."""
SPINS_BETWEEN_LOOKS = 64
BUSY_SECONDS = 0.002
"""For which one waits without sleeping."""
LONGEST_LOOK = 0.1
"""Seconds that count as waiting between two looks, however long it was."""


class Exchange:
    """One rank's end. For one thread, but for `abandon`.

    sets: the two sets of slots, of every rank: uint8 [SLOT_BYTES] each. address: where all of it is mapped.
    """

    def __init__(self, memory: int, rank: int, size: int, patience: float | None = None) -> None:
        """memory: the number of a file of `create`, which stays the caller's.
        patience: seconds to wait for another rank; None for as long as it takes.
        """
        mapped = mmap.mmap(memory, _num_bytes(size))
        self._rank, self._size, self.patience = rank, size, patience
        self._counts = memoryview(mapped)[: size * LINE].cast("q")
        self._others = [other * LINE // 8 for other in range(size) if other != rank]
        everything = np.frombuffer(mapped, np.uint8)
        self.address = everything.ctypes.data
        self.sets = [list(each) for each in everything[size * LINE :].reshape(2, size, SLOT_BYTES)]

    @property
    def next_set(self) -> int:
        """Write to one's own slot in it, meet, then read all others' before one meets again."""
        return (self._turn + 1) % 2

    def meet(self) -> None:
        """Waits for all ranks. Raises RankLost if one does not come in time, or if rank 0 has given up."""
        turn = self._turn + 1
        self._counts[self._rank * LINE // 8] = turn
        for other in self._others:
            if self._counts[other] < turn:
                self._wait_for(other, turn)

    def abandon(self) -> None:
        """Of rank 0, from any thread: nobody waits for it any longer, nor it for anybody."""
        self._counts[ABANDONED] = 1

    @property
    def _turn(self) -> int:
        return self._counts[self._rank * LINE // 8]

    def _wait_for(self, other: int, turn: int) -> None:
        counts = self._counts
        waited, before = 0.0, time.monotonic()
        while True:
            for _ in range(SPINS_BETWEEN_LOOKS):
                if counts[other] >= turn:
                    return
                os.sched_yield()
            now = time.monotonic()
            # Who was stopped itself, as by Ctrl-Z, has not waited meanwhile.
            waited, before = waited + min(now - before, LONGEST_LOOK), now
            if counts[ABANDONED]:
                raise given_up()
            if self.patience is not None and waited > self.patience:
                raise waited_in_vain(other * 8 // LINE, waited)
            if waited > BUSY_SECONDS:
                time.sleep(0.00005)


def given_up() -> RankLost:
    return RankLost("the ranks have been given up")


def waited_in_vain(rank: int, seconds: float) -> RankLost:
    return RankLost(f"rank {rank} has kept the others waiting for {seconds:.1f} s")


def create(size: int) -> BinaryIO:
    """A file without a name for the ranks to share; it is gone when the last of them is."""
    memory = os.fdopen(os.memfd_create("octavo-ranks"), "r+b", buffering=0)
    memory.truncate(_num_bytes(size))
    return memory


def is_possible() -> bool:
    """Whether others see what this machine writes in the order in which it is written, without fences."""
    return platform.machine() in ("x86_64", "AMD64")


def _num_bytes(size: int) -> int:
    return size * (LINE + 2 * SLOT_BYTES)
