"""What one pick costs the gateway, by how many pods there are.

    python benchmarks/picking.py [--pods 10 100 1000 10000]

Pods are in all stages of fullness. Half of the requests belong to sessions, and each report is another load.
"""

from __future__ import annotations

import argparse
import time
from random import Random
from typing import TYPE_CHECKING, Any

from octavo.service.gateway.picker import Choice, Picker, Query
from octavo.service.gateway.scorers import PodView, RoutingPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROUNDS = 5000


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pods", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    options = parser.parse_args()

    table = Table(title="Microseconds, median (and 99th percentile)")
    for column in ("pods", "pick", "pick and done", "report", "a pod comes or goes"):
        table.add_column(column, justify="right")
    for pods in options.pods:
        table.add_row(f"{pods:,}", *measure(pods, Random(0)))
    Console().print(table)


def measure(pods: int, chance: Random) -> list[str]:
    picker = Picker(RoutingPolicy(), chance)
    addresses = [f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}:50051" for i in range(pods)]
    picker.set_members(addresses)
    for address in addresses:
        picker.report(address, load(chance), 0.0)
    queries = [Query(f"session {i}" if i % 2 else "", chance.randrange(4000)) for i in range(ROUNDS)]
    reports = [(chance.choice(addresses), load(chance)) for _ in range(ROUNDS)]

    def pick(query: Query) -> Choice | None:
        return picker.pick(query, 0.1)

    def pick_and_done(query: Query) -> None:
        choice = pick(query)
        assert choice is not None
        picker.done(choice, 0.1)

    return [
        timed(pick, queries),
        timed(pick_and_done, queries),
        timed(lambda report: picker.report(*report, 0.2), reports),
        timed(lambda end: picker.set_members(addresses[:end]), [pods - 1, pods] * 3),
    ]


def load(chance: Random) -> PodView:
    return PodView(
        total_blocks=10_000,
        held_blocks=chance.randrange(10_000),
        running=chance.randrange(64),
        waiting=chance.randrange(8),
        waiting_tokens=chance.randrange(8_000),
        max_num_seqs=64,
    )


def timed(act: Callable[[Any], object], inputs: Iterable[Any]) -> str:
    taken = []
    for given in inputs:
        began = time.perf_counter()
        act(given)
        taken.append((time.perf_counter() - began) * 1e6)
    taken.sort()
    return f"{taken[len(taken) // 2]:,.0f} ({taken[len(taken) * 99 // 100]:,.0f})"


if __name__ == "__main__":
    main()
