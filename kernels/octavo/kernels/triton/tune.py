"""Finds the fastest tile of each kernel that has several, on the card that is here, and keeps it.

python -m octavo.kernels.triton.tune
"""

from __future__ import annotations

import argparse
import sys
from statistics import median
from typing import TYPE_CHECKING

import torch

from octavo.kernels.triton import tuning
from octavo.kernels.triton.architectures import current_architecture
from octavo.kernels.triton.roofline import all_workloads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from octavo.kernels.triton.registry import Call, Tile, Workload

CALLS = 20
CLEARED = 256 << 20
"""Bytes: more than any card's cache."""


def median_seconds(call: Call) -> float:
    """On the card, with its caches cleared before each call: of a graph, for which the host takes the same
    few microseconds whatever it launches."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    cleared = torch.empty(CLEARED, dtype=torch.uint8, device="cuda")
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(CALLS)]
    for started, ended in events:
        cleared.zero_()
        started.record()
        graph.replay()
        ended.record()
    torch.cuda.synchronize()
    milliseconds: float = median(started.elapsed_time(ended) for started, ended in events)
    return milliseconds / 1e3


def tune(
    workloads: Iterable[Workload],
    device: torch.device,
    measure: Callable[[Call], float] = median_seconds,
    report: Callable[[str], None] = print,
) -> None:
    """Of workloads that share a choice, the tile is kept that is the fastest over all of them."""
    sharing: dict[tuple[str, str], list[Workload]] = {}
    for workload in workloads:
        if workload.candidates is not None:
            sharing.setdefault((workload.kernel, workload.key), []).append(workload)
    for (kernel, key), members in sharing.items():
        assert members[0].candidates is not None
        tiles = members[0].candidates(current_architecture())
        times = [_total_seconds(kernel, key, tile, members, device, measure) for tile in tiles]
        best = min(range(len(tiles)), key=times.__getitem__)
        tuning.keep(kernel, key, tiles[best])
        report(
            f"{kernel}: {key}: {tiles[best]}, {times[best] * 1e6:.1f} µs; the first: {times[0] * 1e6:.1f} µs"
        )


def _total_seconds(
    kernel: str,
    key: str,
    tile: Tile,
    workloads: Sequence[Workload],
    device: torch.device,
    measure: Callable[[Call], float],
) -> float:
    with tuning.trial(kernel, key, tile):
        return sum(measure(workload.prepare(device)) for workload in workloads)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m octavo.kernels.triton.tune", description=__doc__)
    parser.parse_args(arguments)
    if not torch.cuda.is_available():
        parser.error("there is no GPU here to measure on")
    tune(all_workloads(), torch.device("cuda"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
