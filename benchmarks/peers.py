"""Octavo and every peer that is installed, alternating on the same workloads, in one run.

    python -m benchmarks.peers [--peers openvino-int8,llama.cpp] [--rounds 3] [--workloads single,batch-32]

A ratio is Octavo's rate over that of the best peer of its precision in the same round, and the median of the
rounds' own, so that a machine whose speed drifts is fair to all. Rates are medians of all rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.bench import add_rates, limit_rates, worker
from benchmarks.harness.chart import Bar, Group, bars
from benchmarks.harness.configurations import CONFIGURATIONS, Configuration, supported
from benchmarks.harness.machine import measure
from benchmarks.harness.peers import PEERS, Peer, installation, prepare
from benchmarks.harness.processes import Command, Failed, Line
from benchmarks.harness.results import keep, rate
from benchmarks.harness.roofline import Shape
from benchmarks.harness.targets import TARGETS
from benchmarks.harness.workloads import LOAD, NAMES
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Rounds = list[dict[str, list[Line]]]
"""Of each round, the lines of each engine; Octavo's engines have the names of their configurations."""


def ratio(rounds: Rounds, configuration: str, peers: Sequence[str], workload: str) -> float | None:
    """The median of the rounds in which both sides have the workload."""
    found = []
    for lines in rounds:
        ours = rate(lines.get(configuration, []), workload)
        theirs = [r for peer in peers if (r := rate(lines.get(peer, []), workload)) is not None]
        if ours is not None and theirs:
            found.append(ours / max(theirs))
    return statistics.median(found) if found else None


def everywhere(rounds: Rounds, engine: str) -> list[Line]:
    """The lines of all rounds of one engine."""
    return [line for lines in rounds for line in lines.get(engine, [])]


def rates_table(rounds: Rounds, engines: Sequence[str], names: Sequence[str]) -> Table:
    table = Table("workload, tokens/s", *engines, title="Rates, medians of all rounds")
    for column in table.columns[1:]:
        column.justify = "right"
    for workload in names:
        rates = [rate(everywhere(rounds, engine), workload) for engine in engines]
        table.add_row(workload, *[f"{r:,.0f}" if r is not None else "–" for r in rates])
    loads = [[x["seconds"] for x in everywhere(rounds, e) if x["workload"] == LOAD] for e in engines]
    table.add_row("load, s", *[f"{statistics.median(s):.1f}" if s else "–" for s in loads])
    return table


def ratios_table(
    rounds: Rounds,
    compared: Sequence[tuple[Configuration, Sequence[str]]],
    most: Mapping[str, Mapping[str, float]],
    names: Sequence[str],
) -> Table:
    """compared: Octavo's configurations, each with its peers. most: the possible rates, by its name."""
    table = Table("configuration", "workload", title="Octavo against the best peer of its precision")
    for column in ("tokens/s", "of limit", "best peer", "its tokens/s", "ratio", "target"):
        table.add_column(column, justify="right")
    for configuration, peers in compared:
        for workload in names:
            ours = rate(everywhere(rounds, configuration.name), workload)
            if ours is None:
                continue
            theirs = {p: r for p in peers if (r := rate(everywhere(rounds, p), workload)) is not None}
            best = max(theirs, key=lambda peer: theirs[peer]) if theirs else None
            found = ratio(rounds, configuration.name, peers, workload)
            limit = most[configuration.name].get(workload)
            target = TARGETS[configuration.precision].get(workload)
            met = found is not None and target is not None and found >= target
            table.add_row(
                configuration.name,
                workload,
                f"{ours:,.0f}",
                f"{ours / limit:.0%}" if limit is not None else "–",
                best or "–",
                f"{theirs[best]:,.0f}" if best is not None else "–",
                f"[{'green' if met else 'default'}]{found:.2f}" if found is not None else "–",
                f"≥ {target:.2f}" if target is not None else "–",
            )
        table.add_section()
    return table


def run(commands: Mapping[str, Command], rounds: int, console: Console) -> Rounds:
    """Every engine once a round, one after another; one that fails is told of and left out from there on."""
    done: Rounds = []
    failed: set[str] = set()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=rounds * len(commands))
        for number in range(rounds):
            done.append({})
            for engine, command in commands.items():
                progress.update(task, description=f"round {number + 1}: {engine}")
                if engine not in failed:
                    try:
                        done[-1][engine] = command.lines()
                    except Failed as failure:
                        failed.add(engine)
                        console.print(f"[red]{engine}: {failure}")
                progress.advance(task)
    return done


def choose(options: argparse.Namespace, console: Console) -> list[Peer]:
    """The peers that were asked for and can run; says why the others cannot."""
    root, drivers = installation(), options.drivers
    if not drivers.is_dir():
        console.print(
            f"No drivers of peers in {drivers}: Octavo runs alone. PEERS=FOLDER says where they are."
        )
        return []
    wanted = options.peers.split(",") if options.peers is not None else [peer.name for peer in PEERS]
    if unknown := set(wanted) - {peer.name for peer in PEERS}:
        raise SystemExit(f"unknown peers: {', '.join(sorted(unknown))}")
    chosen = []
    for peer in PEERS:
        if peer.name in wanted:
            if (path := peer.missing(root, drivers)) is None:
                chosen.append(peer)
            else:
                console.print(f"{peer.name} is left out: there is no {path}")
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--drivers", type=Path, default=Path("../shared/peers"), help="folder of run_*.py")
    parser.add_argument("--peers", help=f"of {', '.join(peer.name for peer in PEERS)}; all if unset")
    parser.add_argument("--configurations", default=",".join(c.name for c in CONFIGURATIONS))
    parser.add_argument("--workloads", default=",".join(NAMES))
    parser.add_argument("--rounds", type=int, default=2)
    add_rates(parser)
    options, console = parser.parse_args(), Console()
    names = options.workloads.split(",")
    configurations, missing = supported(options.configurations.split(","))
    if missing:
        console.print(f"This engine does not compute in {' or '.join(missing)} yet: left out.")
    peers = choose(options, console)
    with console.status("measuring the machine"):
        limits = measure(options.bf16_rate, options.int8_rate)
    console.print(limits.words())

    with tempfile.TemporaryDirectory() as folder:
        if peers:
            prepare(options.drivers, Path(folder))
        commands = {c.name: worker(options.model, c.name, names) for c in configurations}
        commands |= {peer.name: peer.command(installation(), Path(folder), names) for peer in peers}
        rounds = run(commands, options.rounds, console)
    shape = Shape.of(options.model)
    most = {c.name: limit_rates(c, shape, limits) for c in configurations}
    compared = [(c, [p.name for p in peers if p.precision == c.precision]) for c in configurations]
    engines = [engine for engine in commands if any(engine in lines for lines in rounds)]
    console.print(rates_table(rounds, engines, names))
    console.print(ratios_table(rounds, compared, most, names))
    groups = [
        Group(
            workload,
            [
                Bar(
                    f"octavo {engine}" if engine in most else engine,
                    found,
                    limit=most[engine].get(workload) if engine in most else None,
                )
                for engine in engines
                if (found := rate(everywhere(rounds, engine), workload)) is not None
            ],
        )
        for workload in names
    ]
    drawn = bars(f"{options.model}: tokens per second", f"{limits.words()}; | is the limit", groups)
    result = {"model": options.model, "limits": asdict(limits), "most": most, "rounds": rounds}
    console.print("written:", *map(str, keep("peers", result, drawn)))


if __name__ == "__main__":
    main()
