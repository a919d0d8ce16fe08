"""The workloads that every engine runs. Drivers of other engines import this file too, so it imports nothing
of Octavo.

Prompts are token ids and the end of sequence is ignored, so that each engine does the same work: greedy, or
drawn at temperature 1 where a prompt has several samples. BENCH_WORKLOADS, names with commas between, leaves
some out; the warm-up always runs.
"""

from __future__ import annotations

import json
import os
import random

VOCABULARY = (100, 49_000)
"""Token ids are drawn from here: inside SmolLM2's vocabulary, clear of its special tokens."""

NAMES = ("single", "batch-32", "prefill", "shared-prefix", "parallel-8")
WARM_UP = "warm-up"
LOAD = "load"

Prompts = list[list[int]]
Workload = tuple[str, Prompts, int, int]
"""Name, prompts, output tokens of each sample, samples of each prompt."""


def prompt(rng: random.Random, length: int) -> list[int]:
    return [rng.randint(*VOCABULARY) for _ in range(length)]


def workloads(seed: int = 0) -> list[Workload]:
    rng = random.Random(seed)
    prefix = prompt(rng, 512)
    every = [
        (WARM_UP, [prompt(rng, 32) for _ in range(2)], 8, 1),
        ("single", [prompt(rng, 128)], 128, 1),
        ("single", [prompt(rng, 128)], 128, 1),
        ("batch-32", [prompt(rng, rng.randint(64, 512)) for _ in range(32)], 128, 1),
        ("prefill", [prompt(rng, 512) for _ in range(16)], 1, 1),
        ("shared-prefix", [prefix + prompt(rng, 32) for _ in range(32)], 64, 1),
        ("parallel-8", [prompt(rng, 128) for _ in range(4)], 64, 8),
    ]
    wanted = os.environ.get("BENCH_WORKLOADS")
    return [w for w in every if wanted is None or w[0] in (WARM_UP, *wanted.split(","))]


def report(engine: str, name: str, prompts: Prompts, out: int, n: int, seconds: float) -> str:
    """One line of JSON: tokens in and out, seconds, and both throughputs in tokens per second."""
    tokens_in, tokens_out = sum(map(len, prompts)), out * n * len(prompts)
    return json.dumps(
        {
            "engine": engine,
            "workload": name,
            "prompt_tokens": tokens_in,
            "output_tokens": tokens_out,
            "seconds": round(seconds, 4),
            "output_tokens_per_s": round(tokens_out / seconds, 1),
            "total_tokens_per_s": round((tokens_in + tokens_out) / seconds, 1),
        }
    )
