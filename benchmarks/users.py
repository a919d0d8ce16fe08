"""32 users at once, against Transformers' `generate` answering them one after another.

    python -m benchmarks.users [--configurations bf16,int8,4-bit] [--answers 4]

The users are those of the workload batch-32. Transformers needs minutes for all of them, so its rate is that
of the first few answers.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from benchmarks.bench import worker
from benchmarks.harness.configurations import CONFIGURATIONS, supported
from benchmarks.harness.processes import Command
from benchmarks.harness.results import keep, rate
from benchmarks.harness.workloads import workloads
from rich.console import Console
from rich.table import Table

WORKLOAD = "batch-32"
TARGET = 24.0


def one_after_another(model: str, answers: int) -> float:
    """Output tokens per second of Transformers in bfloat16."""
    import torch
    from benchmarks.throughput import load_transformers, transformers

    torch.set_grad_enabled(False)
    generate = transformers(load_transformers(model, "bfloat16"))
    [(_, prompts, out, _)] = (w for w in workloads() if w[0] == WORKLOAD)
    generate([prompts[0][:32]], 4)
    started = time.perf_counter()
    for prompt in prompts[:answers]:
        generate([prompt], out)
    return answers * out / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--configurations", default=",".join(c.name for c in CONFIGURATIONS))
    parser.add_argument("--answers", type=int, default=4, help="of Transformers")
    parser.add_argument("--alone", action="store_true", help="Transformers' side alone, as JSON")
    options, console = parser.parse_args(), Console()
    if options.alone:
        print(json.dumps({"output_tokens_per_s": one_after_another(options.model, options.answers)}))
        return
    words = [sys.executable, "-m", "benchmarks.users", "--alone", "--model", options.model]
    with console.status("Transformers, one after another"):
        [line] = Command([*words, "--answers", str(options.answers)]).lines()
    theirs = line["output_tokens_per_s"]
    table = Table("32 users", "output tokens/s", "ratio", "target")
    table.add_row("Transformers, one after another", f"{theirs:.1f}", "", "")
    found = {}
    for configuration in supported(options.configurations.split(","))[0]:
        with console.status(configuration.name):
            ours = rate(worker(options.model, configuration.name, [WORKLOAD]).lines(), WORKLOAD)
        assert ours is not None
        found[configuration.name] = ours
        table.add_row(f"Octavo, {configuration.name}", f"{ours:.1f}", f"{ours / theirs:.1f}", f"≥ {TARGET:g}")
    console.print(table)
    console.print("written:", *map(str, keep("users", {"transformers": theirs, "octavo": found})))


if __name__ == "__main__":
    main()
