"""Resident memory of an engine under load, against its weights, its KV pool and what it may need beside them.

    python -m benchmarks.memory [--configurations bf16,int8,4-bit]

The pool is smaller than the workload, so that all of it has been written to. Weights count as what they are
computed from takes; pages of mapped files count as resident.
"""

from __future__ import annotations

import argparse
import json
import sys

from benchmarks.harness.configurations import CONFIGURATIONS, Configuration, configuration, supported
from benchmarks.harness.processes import Command
from benchmarks.harness.resident import resident_bytes
from benchmarks.harness.results import keep
from benchmarks.harness.roofline import Shape
from benchmarks.harness.workloads import workloads
from rich.console import Console
from rich.table import Table

BESIDE = 300 * 10**6
POOL = "192Mi"


def loaded(model: str, chosen: Configuration) -> dict[str, int]:
    """Bytes once loaded and after the load, of this process; and of the pool."""
    from octavo.engine import LLM, SamplingParams

    llm = LLM(model, device="cpu", max_model_len=2048, kv_cache_memory=POOL, **chosen.settings)
    before = resident_bytes()
    [(_, prompts, out, _)] = (w for w in workloads() if w[0] == "batch-32")
    llm.generate(prompts, SamplingParams(temperature=0, max_tokens=out, ignore_eos=True), progress=False)
    pool = llm.model.num_blocks * llm.model.block_bytes
    return {"loaded": before, "after": resident_bytes(), "pool": pool}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--configurations", default=",".join(c.name for c in CONFIGURATIONS))
    parser.add_argument("--alone", help="one configuration in this process, as JSON")
    options, console = parser.parse_args(), Console()
    if options.alone:
        print(json.dumps(loaded(options.model, configuration(options.alone))))
        return
    table = Table("MB", "loaded", "under load", "weights", "KV pool", "beside them", "wanted")
    shape, found = Shape.of(options.model), {}
    words = [sys.executable, "-m", "benchmarks.memory", "--model", options.model, "--alone"]
    for each in supported(options.configurations.split(","))[0]:
        with console.status(each.name):
            [line] = Command([*words, each.name]).lines()
        weights = shape.packed_bytes if each.weight_bytes is None else shape.weights * each.weight_bytes
        beside = line["after"] - weights - line["pool"]
        found[each.name] = {**line, "weights": weights}
        values = (line["loaded"], line["after"], weights, line["pool"], beside)
        table.add_row(each.name, *[f"{v / 1e6:,.0f}" for v in values], f"≤ {BESIDE / 1e6:.0f}")
    console.print(table)
    console.print("written:", *map(str, keep("memory", found)))


if __name__ == "__main__":
    main()
