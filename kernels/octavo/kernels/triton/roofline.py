"""What each op takes at least on each card: its bytes at the rate of memory, or its operations at the rate of
what does them, whichever takes longer (Williams, Waterman and Patterson, 2009).

    python -m octavo.kernels.triton.roofline docs/gpu.md

writes the table into the documentation; without a file, to the terminal.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from octavo.kernels.triton import MODULES
from octavo.kernels.triton.architectures import CARDS, Card

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from octavo.kernels.triton.registry import Workload

BEGIN, END = "<!-- roofline -->", "<!-- /roofline -->"


def all_workloads() -> list[Workload]:
    return [workload for module in MODULES for workload in module.workloads()]


def seconds(workload: Workload, card: Card) -> float:
    return max(workload.bytes / card.memory, workload.flops / card.rates[workload.unit])


def bound(workload: Workload, card: Card) -> str:
    """What it waits for: memory, or the unit that computes."""
    in_memory = workload.bytes / card.memory >= workload.flops / card.rates[workload.unit]
    return "memory" if in_memory else workload.unit


def table(workloads: Iterable[Workload], cards: Sequence[Card] = CARDS) -> list[str]:
    """In Markdown."""
    head = ["op", "size", "type", "bytes", "FLOPs", *(card.name for card in cards)]
    lines = [_row(head), _row(["---"] * 3 + ["--:"] * (2 + len(cards)))]
    for workload in workloads:
        times = (f"{seconds(workload, card) * 1e6:,.1f} µs, {bound(workload, card)}" for card in cards)
        lines.append(
            _row(
                [
                    f"`{workload.op}`",
                    workload.size,
                    workload.dtype,
                    _short(workload.bytes),
                    _short(workload.flops),
                    *times,
                ]
            )
        )
    return lines


def written(text: str, lines: Sequence[str]) -> str:
    """A document with the table where its marks are. ValueError if it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"there is no {BEGIN} … {END}")
    return "\n".join([before + begin, *lines, end + after])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _short(number: float) -> str:
    for unit in ("", " K", " M", " G"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:,.3g} T"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m octavo.kernels.triton.roofline", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path)
    options = parser.parse_args(arguments)
    lines = table(all_workloads())
    if options.file is None:
        print("\n".join(lines))
    else:
        options.file.write_text(written(options.file.read_text(), lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
