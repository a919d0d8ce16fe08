"""Requests that arrive by chance, of lengths as people's are: how long each waits, and what memory is lost.

    python -m benchmarks.arrivals [--rate 1.0] [--requests 60] [--configuration bf16]

Arrivals are a Poisson process, lengths of prompts and outputs log-normal. Each request is read as a client
would: seconds to its first token, and between its tokens. The KV memory that is held but holds no token is
counted after every step, in slots, over the whole run.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.harness.client import Trace, percentile, read
from benchmarks.harness.configurations import CONFIGURATIONS, configuration
from benchmarks.harness.fragmentation import Fragmentation
from benchmarks.harness.results import keep
from benchmarks.harness.workloads import prompt
from rich.console import Console
from rich.table import Table

from octavo.engine import SamplingParams
from octavo.engine.async_engine import AsyncEngine
from octavo.engine.config import EngineConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARES = (0.5, 0.95, 0.99)
MOST_LOST = 0.04


@dataclass(frozen=True, slots=True)
class Arrival:
    """after: seconds since the one before it."""

    after: float
    prompt: list[int]
    num_output_tokens: int


def arrivals(options: argparse.Namespace) -> Iterator[Arrival]:
    rng = random.Random(options.seed)

    def length(median: float, most: int) -> int:
        return min(max(round(median * rng.lognormvariate(0, options.sigma)), 4), most)

    for _ in range(options.requests):
        yield Arrival(
            rng.expovariate(options.rate),
            prompt(rng, length(options.prompt_median, 2048)),
            length(options.output_median, 1024),
        )


async def serve(engine: AsyncEngine, requests: list[Arrival]) -> list[Trace]:
    readers = []
    for request in requests:
        await asyncio.sleep(request.after)
        params = SamplingParams(temperature=0, max_tokens=request.num_output_tokens, ignore_eos=True)
        readers.append(asyncio.create_task(read(engine, request.prompt, params)))
    return await asyncio.gather(*readers)


async def run(options: argparse.Namespace, console: Console) -> None:
    config = EngineConfig(
        model=options.model,
        device="cpu",
        kv_cache_memory="2Gi",
        max_waiting=options.requests,
        **configuration(options.configuration).settings,
    )
    engine = AsyncEngine.load_model(config)
    fragmentation = Fragmentation(engine._engine)
    await engine.start()
    await serve(engine, [Arrival(0.0, [1000] * 32, 4)])  # warm up
    fragmentation.watch()
    requests = list(arrivals(options))
    with console.status(f"{len(requests)} requests, {options.rate:g} a second"):
        started = time.perf_counter()
        traces = await serve(engine, requests)
        seconds = time.perf_counter() - started
    await engine.stop()
    report(options, console, requests, traces, seconds, fragmentation.share)


def report(
    options: argparse.Namespace,
    console: Console,
    requests: list[Arrival],
    traces: list[Trace],
    seconds: float,
    lost: float,
) -> None:
    title = f"{options.model}, {options.configuration}: {len(requests)} requests, {options.rate:g} a second"
    table = Table("seconds", *[f"p{100 * share:.0f}" for share in SHARES], title=title)
    found: dict[str, list[float]] = {}
    rows = {
        "to the first token": [trace.first for trace in traces],
        "between tokens": [gap for trace in traces for gap in trace.gaps],
    }
    for name, values in rows.items():
        found[name] = [percentile(values, share) for share in SHARES]
        table.add_row(name, *[f"{value:.3f}" for value in found[name]])
    console.print(table)
    tokens_out = sum(request.num_output_tokens for request in requests)
    tokens_in = sum(len(request.prompt) for request in requests)
    console.print(
        f"{tokens_in:,} tokens in, {tokens_out:,} out in {seconds:.0f} s: {tokens_out / seconds:.0f}/s"
    )
    console.print(f"KV memory held without a token in it: {lost:.1%} (wanted: less than {MOST_LOST:.0%})")
    result = {**vars(options), "seconds": seconds, "shares": SHARES, "percentiles": found, "lost": lost}
    console.print("written:", *map(str, keep("arrivals", result)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--configuration", default="bf16", choices=[c.name for c in CONFIGURATIONS])
    parser.add_argument("--rate", type=float, default=1.0, help="requests per second")
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--prompt-median", type=float, default=160.0)
    parser.add_argument("--output-median", type=float, default=128.0)
    parser.add_argument("--sigma", type=float, default=0.8, help="of the logarithm of both lengths")
    parser.add_argument("--seed", type=int, default=0)
    asyncio.run(run(parser.parse_args(), Console()))


if __name__ == "__main__":
    main()
