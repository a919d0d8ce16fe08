"""Octavo alone in a process, over the workloads; prints a line of JSON each. `benchmarks.bench` starts it.

    python -m benchmarks.worker --configuration bf16

The line of loading has the seconds from the first import of the engine to a model that can generate, and the
resident memory in bytes then.
"""

from __future__ import annotations

import argparse
import json
import time

from benchmarks.harness.configurations import CONFIGURATIONS, configuration
from benchmarks.harness.resident import resident_bytes
from benchmarks.harness.workloads import LOAD, report, workloads


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--configuration", default="bf16", choices=[c.name for c in CONFIGURATIONS])
    parser.add_argument("--max-num-seqs", type=int, default=64)
    parser.add_argument("--max-num-batched-tokens", type=int, default=2048)
    parser.add_argument("--kv-cache-memory", default="2Gi")
    options = parser.parse_args()

    started = time.perf_counter()
    from octavo.engine import LLM, SamplingParams

    llm = LLM(
        options.model,
        device="cpu",
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        kv_cache_memory=options.kv_cache_memory,
        **configuration(options.configuration).settings,
    )
    seconds = time.perf_counter() - started
    engine = f"octavo {options.configuration}"
    line = {"engine": engine, "workload": LOAD, "seconds": round(seconds, 3), "resident": resident_bytes()}
    print(json.dumps(line), flush=True)
    for name, prompts, out, n in workloads():
        params = SamplingParams(temperature=0 if n == 1 else 1, n=n, max_tokens=out, ignore_eos=True)
        started = time.perf_counter()
        llm.generate(prompts, params, progress=False)
        print(report(engine, name, prompts, out, n, time.perf_counter() - started), flush=True)


if __name__ == "__main__":
    main()
