"""Which processors a rank computes on: its share of those that the process may use."""

from __future__ import annotations

import ctypes
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from octavo.engine.memory import available_cpus

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Processors:
    """cpus: one for each thread, where all that this process may use are its own; else empty, for anywhere.

    A share of a larger machine's time is no share of its processors: every pod would pin itself to the same.
    """

    num_threads: int
    cpus: tuple[int, ...]

    @classmethod
    def of(cls, rank: int = 0, size: int = 1, threads: int | None = None, root: Path = Path("/")) -> Self:
        """Of rank `rank` of `size`. threads: of each rank; an equal share of the processors if unset.

        Ranks that are neighbours by number are so by memory: processors go by the node that they belong to.
        """
        allowed = sorted(os.sched_getaffinity(0), key=lambda cpu: (_node(cpu, root), cpu))
        available = available_cpus(root)
        num_threads = threads or max(available // size, 1)
        share = len(allowed) // size
        if available != len(allowed) or num_threads != share:
            return cls(num_threads, ())
        return cls(num_threads, tuple(allowed[rank * share : (rank + 1) * share]))

    def places(self) -> ctypes.Array[ctypes.c_int] | None:
        """As `octavo_pool_new` takes them."""
        return (ctypes.c_int * len(self.cpus))(*self.cpus) if self.cpus else None

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Keeps this thread on them: memory is nearest to whoever writes to it first."""
        if not self.cpus:
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cpus)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


def _node(cpu: int, root: Path) -> int:
    """Of memory that a processor is near to."""
    nodes = (root / f"sys/devices/system/cpu/cpu{cpu}").glob("node[0-9]*")
    return min((int(node.name.removeprefix("node")) for node in nodes), default=0)
