"""One request that fills most of the model's context: how long its prompt takes, and each token after it.

python -m benchmarks.long_context [--tokens 7900] [--output 64] [--configuration bf16]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics

from benchmarks.harness.client import Trace, read
from benchmarks.harness.configurations import CONFIGURATIONS, configuration
from benchmarks.harness.results import keep
from benchmarks.harness.workloads import prompt
from rich.console import Console

from octavo.engine import SamplingParams
from octavo.engine.async_engine import AsyncEngine
from octavo.engine.config import EngineConfig


async def measure(options: argparse.Namespace) -> Trace:
    config = EngineConfig(
        model=options.model,
        device="cpu",
        kv_cache_memory="1Gi",
        max_num_batched_tokens=2048,
        **configuration(options.configuration).settings,
    )
    engine = AsyncEngine.load_model(config)
    await engine.start()
    await read(engine, [1000] * 32, SamplingParams(temperature=0, max_tokens=4, ignore_eos=True))
    params = SamplingParams(temperature=0, max_tokens=options.output, ignore_eos=True)
    trace = await read(engine, prompt(random.Random(0), options.tokens), params)
    await engine.stop()
    return trace


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--configuration", default="bf16", choices=[c.name for c in CONFIGURATIONS])
    parser.add_argument("--tokens", type=int, default=7900)
    parser.add_argument("--output", type=int, default=64)
    options, console = parser.parse_args(), Console()
    with console.status(f"{options.tokens:,} tokens in, {options.output} out"):
        trace = asyncio.run(measure(options))
    gap = statistics.median(trace.gaps)
    console.print(
        f"{options.model}, {options.configuration}: first token after {trace.first:.2f} s, "
        f"{options.tokens / trace.first:,.0f} prompt tokens/s; then {1 / gap:.1f} tokens/s"
    )
    console.print(
        "written:", *map(str, keep("long_context", {**vars(options), "first": trace.first, "gap": gap}))
    )


if __name__ == "__main__":
    main()
