"""The engine against Transformers' own `generate` on the same batches, alternating, in one run.

    python benchmarks/throughput.py [--model smollm2] [--dtype bfloat16] [--rounds 3]

Token-id prompts, greedy, end-of-sequence ignored, so that both do the same work. Transformers gets each batch
padded to its longest prompt, as its users do. Rates are output tokens per second, the median of all rounds;
the ratio is the median of the rounds' own ratios, so that a machine whose speed drifts is fair to both.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from octavo.engine import LLM, SamplingParams
from octavo.engine.models.source import open_model

if TYPE_CHECKING:
    from collections.abc import Callable

Prompts = list[list[int]]


def workloads(vocab_size: int) -> list[tuple[str, Prompts, int]]:
    """(name, prompts, output tokens each)."""
    rng = random.Random(0)

    def prompt(length: int) -> list[int]:
        return [rng.randrange(100, vocab_size - 100) for _ in range(length)]

    return [
        ("one stream, 128 in, 64 out", [prompt(128)], 64),
        ("batch of 8, 128 in, 64 out", [prompt(128) for _ in range(8)], 64),
        ("batch of 32, 64–512 in, 32 out", [prompt(rng.randint(64, 512)) for _ in range(32)], 32),
        ("prefill, 8 × 512 in, 1 out", [prompt(512) for _ in range(8)], 1),
    ]


def octavo(llm: LLM) -> Callable[[Prompts, int], None]:
    def run(prompts: Prompts, num_tokens: int) -> None:
        params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
        llm.generate(prompts, params, progress=False)

    return run


def transformers(model: Any) -> Callable[[Prompts, int], None]:
    def run(prompts: Prompts, num_tokens: int) -> None:
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        length = {"max_new_tokens": num_tokens, "min_new_tokens": num_tokens}
        with torch.inference_mode():
            model.generate(ids, attention_mask=mask, do_sample=False, pad_token_id=0, **length)

    return run


def load_transformers(model: str, dtype: str) -> Any:
    from transformers import AutoModelForCausalLM, GgufConfig

    path = open_model(model).path
    where: dict[str, Any] = {}
    if path.suffix == ".gguf":  # as we do: packed weights would be slower
        where = {"gguf_file": path.name, "quantization_config": GgufConfig(dequantize=True)}
    folder = path.parent if where else path
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), **where).eval()


def seconds(run: Callable[[Prompts, int], None], prompts: Prompts, num_tokens: int) -> float:
    start = time.perf_counter()
    run(prompts, num_tokens)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    console = Console()
    with console.status("loading the model twice"):
        llm = LLM(options.model, dtype=options.dtype, prefix_caching=False)
        engines = {
            "octavo": octavo(llm),
            "transformers": transformers(load_transformers(options.model, options.dtype)),
        }
    table = Table("workload", "octavo, tokens/s", "transformers, tokens/s", "octavo ÷ transformers")
    for run in engines.values():
        run([[1000] * 32] * 2, 4)  # warm up
    for name, prompts, num_tokens in workloads(llm.model.vocab_size):
        times: dict[str, list[float]] = {engine: [] for engine in engines}
        for _ in track(range(options.rounds), description=name, console=console, transient=True):
            for engine, run in engines.items():
                times[engine].append(seconds(run, prompts, num_tokens))
        tokens = num_tokens * len(prompts)
        rates = [f"{tokens / statistics.median(t):.1f}" for t in times.values()]
        ratios = [b / a for a, b in zip(*times.values(), strict=True)]
        table.add_row(name, *rates, f"{statistics.median(ratios):.2f}")
    console.print(f"{llm.model.name}, {llm.model.dtype}, {torch.get_num_threads()} threads")
    console.print(table)


if __name__ == "__main__":
    main()
