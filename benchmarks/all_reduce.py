"""Microseconds of a sum over the ranks of this machine, by shared memory and by gloo.

python -m benchmarks.all_reduce --ranks 2 --rows 32 --width 576
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

WARM_UP, TIMED = 100, 2000


def measure(kind: str, rank: int, size: int, memory: int, rendezvous: Path, shape: tuple[int, int]) -> None:
    import torch

    from octavo.engine.parallel.exchange import Exchange
    from octavo.engine.parallel.group import Group
    from octavo.engine.runners.torch.collectives import join

    torch.set_num_threads(1)
    exchange = Exchange(memory, rank, size) if kind == "shared memory" else None
    together = join(Group(rank, size, exchange, rendezvous=rendezvous), torch.device("cpu"))
    x = torch.zeros(shape)
    times = []
    for _ in range(WARM_UP + TIMED):
        started = time.perf_counter()
        together.all_reduce(x)
        times.append((time.perf_counter() - started) * 1e6)
    if rank == 0:
        last = sorted(times[WARM_UP:])
        print(f"{kind:14} median {statistics.median(last):7.1f} µs   p90 {last[int(0.9 * TIMED)]:7.1f} µs")


def main() -> None:
    from octavo.engine.parallel.exchange import create

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--width", type=int, default=576)
    options = parser.parse_args()
    size, shape = options.ranks, (options.rows, options.width)
    context = get_context("fork")
    for kind in ("shared memory", "gloo"):
        with create(size) as memory, tempfile.TemporaryDirectory() as folder:
            arguments = (size, memory.fileno(), Path(folder) / "store", shape)
            ranks = [context.Process(target=measure, args=(kind, rank, *arguments)) for rank in range(size)]
            for process in ranks:
                process.start()
            for process in ranks:
                process.join()


if __name__ == "__main__":
    main()
