"""Octavo's engine alone: tokens per second on every workload, as shares of what the machine could do.

    python -m benchmarks.bench [--model smollm2] [--configurations bf16,int8] [--workloads single]

Each configuration runs in a process of its own. The machine's limits are measured before, in the same run.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from benchmarks.harness.chart import Bar, Group, bars
from benchmarks.harness.configurations import ONE_OF_EACH, Configuration, supported
from benchmarks.harness.machine import Limits, measure
from benchmarks.harness.processes import Command, Failed, Line
from benchmarks.harness.results import keep, rate, rate_of
from benchmarks.harness.roofline import Shape
from benchmarks.harness.workloads import LOAD, NAMES, WARM_UP, workloads
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def worker(model: str, configuration: str, names: Sequence[str], *more: str) -> Command:
    """Octavo over some workloads. more: options of `benchmarks.worker`."""
    words = [sys.executable, "-m", "benchmarks.worker", "--model", model, "--configuration", configuration]
    return Command([*words, *more], {"BENCH_WORKLOADS": ",".join(names)})


def limit_rates(configuration: Configuration, shape: Shape, limits: Limits) -> dict[str, float]:
    """The most tokens per second of each workload, as far as it is known."""
    roofline = configuration.roofline(shape, limits)
    rates: dict[str, float] = {}
    for workload in workloads():
        name, prompts, out, n = workload
        seconds = roofline.seconds(workload)
        if name != WARM_UP and seconds is not None:
            tokens = out * n * len(prompts)
            if rate_of(name) == "total_tokens_per_s":
                tokens += sum(map(len, prompts))
            rates[name] = tokens / seconds
    return rates


def table(
    title: str,
    lines: Mapping[str, list[Line]],
    most: Mapping[str, Mapping[str, float]],
    names: Sequence[str],
) -> Table:
    """lines, most: what was measured, and what is possible, by configuration."""
    made = Table(title=title)
    made.add_column("workload, tokens/s")
    for name in lines:
        made.add_column(name, justify="right")
        made.add_column("of limit", justify="right", style="dim")
    for workload in names:
        cells = []
        for name in lines:
            measured, limit = rate(lines[name], workload), most[name].get(workload)
            cells.append(f"{measured:,.0f}" if measured is not None else "–")
            cells.append(f"{measured / limit:.0%}" if measured is not None and limit is not None else "–")
        made.add_row(workload, *cells)
    for what, key, unit in (("load, s", "seconds", 1), ("resident once loaded, MiB", "resident", 2**20)):
        loads = [next(line for line in lines[name] if line["workload"] == LOAD) for name in lines]
        shown = [f"{load[key] / unit:,.2f}" if unit == 1 else f"{load[key] / unit:,.0f}" for load in loads]
        made.add_row(what, *[cell for text in shown for cell in (text, "")])
    return made


def chart(
    model: str, limits: Limits, lines: Mapping[str, list[Line]], most: Mapping[str, Mapping[str, float]],
    names: Sequence[str],
) -> str:  # fmt: skip
    groups = []
    for workload in names:
        measured = {name: rate(lines[name], workload) for name in lines}
        made = [
            Bar(name, value, limit=most[name].get(workload))
            for name, value in measured.items()
            if value is not None
        ]
        groups.append(Group(workload, made))
    return bars(f"Octavo, {model}: tokens per second", f"{limits.words()}; | is the limit", groups)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--configurations", default=",".join(ONE_OF_EACH))
    parser.add_argument("--workloads", default=",".join(NAMES))
    add_rates(parser)
    return parser.parse_args()


def add_rates(parser: argparse.ArgumentParser) -> None:
    for name in ("bf16", "int8"):
        text = f"what the {name} matrix instructions allow, in 10⁹ operations per second; measured if unset"
        parser.add_argument(f"--{name}-rate", type=lambda value: float(value) * 1e9, help=text)


def main() -> None:
    chosen, console = options(), Console()
    names = chosen.workloads.split(",")
    configurations, missing = supported(chosen.configurations.split(","))
    if missing:
        console.print(f"This engine does not compute in {' or '.join(missing)} yet: left out.")
    with console.status("measuring the machine"):
        limits = measure(chosen.bf16_rate, chosen.int8_rate)
    console.print(limits.words())
    shape = Shape.of(chosen.model)
    lines: dict[str, list[Line]] = {}
    for configuration in configurations:
        with console.status(f"running {configuration.name}"):
            try:
                lines[configuration.name] = worker(chosen.model, configuration.name, names).lines()
            except Failed as failure:
                console.print(f"[red]{failure}")
    most = {c.name: limit_rates(c, shape, limits) for c in configurations}
    console.print(table(f"Octavo, {chosen.model}", lines, most, names))
    result = {"model": chosen.model, "limits": asdict(limits), "most": most, "lines": lines}
    paths = keep("bench", result, chart(chosen.model, limits, lines, most, names))
    console.print("written:", *map(str, paths))
    if len(lines) < len(configurations):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
