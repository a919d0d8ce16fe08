"""Measures every GPU kernel on the card that is here, and holds it against the card's limits.

    python benchmarks/kernels.py [--only attention]

Each op runs at the sizes of docs/gpu.md, with the card's caches cleared before each call; the median counts.
The last column is the least time that the card could take (its roofline) ÷ the measured one.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.table import Table

from octavo.kernels.triton.architectures import CARDS, Card
from octavo.kernels.triton.roofline import all_workloads, bound, seconds
from octavo.kernels.triton.tune import median_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence


def known_card(name: str) -> Card | None:
    """By torch's name of the device."""
    return next((card for card in CARDS if card.name in name), None)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="ops whose name contains this")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(
            "there is no GPU here to measure on; `make kernels` says what can be known without",
            file=sys.stderr,
        )
        return 2
    name = torch.cuda.get_device_name()
    card = known_card(name)
    table = Table("op", "size", "type", title=name)
    for column in ("µs", "GB/s", "TFLOP/s", "bound", "of roofline"):
        table.add_column(column, justify="right")
    for workload in all_workloads():
        if options.only not in workload.op:
            continue
        taken = median_seconds(workload.prepare(torch.device("cuda")))
        torch.cuda.empty_cache()
        table.add_row(
            workload.op,
            workload.size,
            workload.dtype,
            f"{taken * 1e6:.1f}",
            f"{workload.bytes / taken / 1e9:.0f}",
            f"{workload.flops / taken / 1e12:.1f}",
            bound(workload, card) if card else "–",
            f"{seconds(workload, card) / taken:.0%}" if card else "–",
        )
    Console().print(table)
    if card is None:
        print(f"the limits of {name} are not known here: add it to octavo.kernels.triton.architectures.CARDS")
    return 0


if __name__ == "__main__":
    sys.exit(main())
