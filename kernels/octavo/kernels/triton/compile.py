"""`make kernels`: compiles every variant of every kernel for every architecture, on a machine with no GPU.

Prints what each takes of a multiprocessor; exits with 1 if one does not compile, does not fit, or spills
registers in a hot kernel. Results are kept in ~/.cache/octavo/triton, so that only what has changed is
compiled again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from typing import TYPE_CHECKING

from triton import knobs

from octavo.kernels.triton import MODULES, registry
from octavo.kernels.triton.architectures import ARCHITECTURES
from octavo.kernels.triton.resources import Resources, measured

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from octavo.kernels.triton.registry import Variant

Results = dict[tuple[int, str], Resources]
"""By number of the variant and architecture's name."""


def all_variants() -> list[Variant]:
    return [variant for module in MODULES for variant in module.variants()]


def compile_one(job: tuple[int, str, Path | None]) -> tuple[int, str, Resources]:
    number, architecture, cache = job
    return number, architecture, measured(all_variants()[number], ARCHITECTURES[architecture], cache)


def compile_all(
    variants: Sequence[Variant],
    only: Callable[[Variant], bool],
    architectures: Sequence[str],
    cache: Path | None,
    processes: int,
) -> Results:
    jobs = [
        (number, architecture, cache)
        for number, variant in enumerate(variants)
        for architecture in architectures
        if only(variant) and architecture in variant.architectures
    ]
    results: Results = {}
    # Not forked: torch's threads do not survive it.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for number, architecture, resources in pool.imap_unordered(compile_one, jobs):
            results[number, architecture] = resources
            if sys.stderr.isatty() or len(results) % 100 == 0:
                print(f"\r{len(results)} of {len(jobs)} compiled", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return results


def table(variants: Sequence[Variant], architectures: Sequence[str], results: Results) -> list[str]:
    """A line for each variant: registers of a thread, spilled bytes, shared memory and estimated occupancy,
    by architecture."""
    words = {
        number: (variant.name, variant.dtype, _constants(variant))
        for number, variant in enumerate(variants)
        if any((number, architecture) in results for architecture in architectures)
    }
    widths = [max((len(word[i]) for word in words.values()), default=0) for i in range(3)]
    columns = "reg spill shared   occ"
    head = " ".join(" " * width for width in widths)
    lines = [
        head + "".join(f" | {architecture:{len(columns)}}" for architecture in architectures),
        head + f" | {columns}" * len(architectures),
    ]
    for number, word in words.items():
        cells = [results.get((number, architecture)) for architecture in architectures]
        left = " ".join(text.ljust(width) for text, width in zip(word, widths, strict=True))
        lines.append(left + "".join(f" | {_cell(cell):{len(columns)}}" for cell in cells))
    return lines


def _constants(variant: Variant) -> str:
    constants = {
        name: int(value) if isinstance(value, bool) else value
        for name, value in variant.all_constants.items()
    }
    return " ".join(
        [
            *(f"{name}={value}" for name, value in constants.items()),
            f"{variant.tile.num_warps}w",
            f"{variant.tile.num_stages}s",
        ]
    )


def _cell(resources: Resources | None) -> str:
    if resources is None:
        return "–"
    if resources.error:
        return "error"
    shared = f"{resources.shared / 1024:.1f}K"
    return f"{resources.registers:3} {resources.spills:5} {shared:>6} {resources.occupancy:>5.0%}"


def faults(variants: Sequence[Variant], results: Results) -> list[str]:
    found = []
    for (number, architecture), resources in sorted(results.items()):
        variant = variants[number]
        fault = resources.fault(variant.hot)
        if fault:
            found.append(f"{architecture}: {variant.name} {variant.dtype} {_constants(variant)}: {fault}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m octavo.kernels.triton.compile", description=__doc__)
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    parser.add_argument("--dtype", default="", help="types that begin with this")
    parser.add_argument("--arch", action="append", choices=ARCHITECTURES, help="all if none is given")
    parser.add_argument("--processes", type=int, default=min(8, len(os.sched_getaffinity(0))))
    parser.add_argument("--no-cache", action="store_true", help="compile what is known already, too")
    options = parser.parse_args(arguments)
    if knobs.runtime.interpret:
        parser.error("TRITON_INTERPRET is set: then there is nothing to compile")
    started, variants = time.monotonic(), all_variants()
    architectures = options.arch or list(ARCHITECTURES)
    cache = None if options.no_cache else registry.cache_folder() / "compiled"

    def only(variant: Variant) -> bool:
        return options.only in variant.name and variant.dtype.startswith(options.dtype)

    results = compile_all(variants, only, architectures, cache, options.processes)
    print("\n".join(table(variants, architectures, results)))
    found = faults(variants, results)
    seconds = time.monotonic() - started
    print(f"{len(results)} compiled in {seconds:.0f} s, or known from before; {len(found)} with a fault")
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
