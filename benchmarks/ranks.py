"""Tokens per second of one rank and of several that share the processors, by the native runner.

    python -m benchmarks.ranks --ranks 2 --batches 1 32 --forms bfloat16 int8

The model has random weights, in SmolLM2-135M's shape but for 8 heads and 4 key-value heads, since 9 and 3 are
no two ranks'. The last lines are of one with as many sums a step (61) and hardly anything else to compute.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

LARGE = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip
SMALL = LARGE | {"intermediate_size": 64, "head_dim": 16, "vocab_size": 384}
FORMS = {"float32": {"dtype": "float32"}, "bfloat16": {"dtype": "bfloat16"}, "int8": {"quantization": "int8"}}
PROMPT, ROUNDS = 32, 2


def measure(model: Path, size: int, threads: int, batch: int, tokens: int, **settings: Any) -> float:
    """Seconds that a decode of `batch` sequences takes, the least of some rounds."""
    from octavo.engine import LLM, SamplingParams

    llm = LLM(str(model), runner="native", tensor_parallel_size=size, threads=threads, prefix_caching=False,
              kv_cache_memory="256Mi", weight_cache="off", **settings)  # fmt: skip
    prompts = [[3 + (7 * i + j) % 300 for j in range(PROMPT)] for i in range(batch)]

    def seconds(max_tokens: int) -> float:
        started = time.perf_counter()
        params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
        llm.generate(prompts, params, progress=False)
        return time.perf_counter() - started

    seconds(2)
    return min((seconds(tokens + 1) - seconds(1)) / tokens for _ in range(ROUNDS))


def main() -> None:
    from tests.conftest import save_tiny_model

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2, help="1, 2, 4 or 8 (default: %(default)s)")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[1, 32], help="sequences that decode together"
    )
    parser.add_argument(
        "--forms", nargs="+", choices=FORMS, default=["bfloat16", "int8"], help="of the weights"
    )
    parser.add_argument("--tokens", type=int, default=32, help="of each sequence (default: %(default)s)")
    options = parser.parse_args()
    kinds = {(1, 1): "1 rank, 1 thread", (1, options.ranks): f"1 rank, {options.ranks} threads",
             (options.ranks, 1): f"{options.ranks} ranks, 1 thread each"}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name, shape, forms in (("large", LARGE, options.forms), ("small", SMALL, ["float32"])):
            model = Path(folder) / name
            model.mkdir()
            save_tiny_model(model, "llama", shape)
            for form in forms:
                for batch in options.batches:
                    for (size, threads), kind in kinds.items():
                        step = measure(model, size, threads, batch, options.tokens, **FORMS[form])
                        print(f"{name} {form:9} batch {batch:3} {kind:24} {step * 1e3:8.2f} ms a step, "
                              f"{batch / step:7.1f} tokens/s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
