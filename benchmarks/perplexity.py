"""Perplexity of a text in every precision, relative to the same weights in float32.

    python -m benchmarks.perplexity [--model smollm2] [--text benchmarks/data/prose.txt] [--window 1024]

The text is cut into windows of tokens, and each token but a window's first is scored given those before it in
the window. The text ships with Octavo and was written for it, so no model can have learned it by heart.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.harness.processes import Command, Failed
from benchmarks.harness.results import keep
from rich.console import Console
from rich.table import Table

from octavo.engine.config import EngineConfig

TEXT = Path(__file__).parent / "data" / "prose.txt"


@dataclass(frozen=True, slots=True)
class Precision:
    """settings: fields of EngineConfig. most: how much higher than float32's its perplexity may be."""

    name: str
    settings: dict[str, Any]
    most: float | None = None

    @property
    def is_supported(self) -> bool:
        return self.settings.keys() <= {field.name for field in fields(EngineConfig)}


UNQUANTISED = {"quantization": "none"} if "quantization" in {f.name for f in fields(EngineConfig)} else {}
INT8_KV = {"kv_cache_dtype": "int8"}
PRECISIONS = (
    Precision("float32", {"dtype": "float32", **UNQUANTISED}),
    Precision("bfloat16", {"dtype": "bfloat16", **UNQUANTISED}),
    Precision("bfloat16, 8-bit KV", {"dtype": "bfloat16", **UNQUANTISED, **INT8_KV}, 0.01),
    Precision("int8", {"dtype": "bfloat16", "quantization": "int8"}, 0.01),
    Precision("int8, 8-bit KV", {"dtype": "bfloat16", "quantization": "int8", **INT8_KV}, 0.01),
    Precision("int4", {"dtype": "bfloat16", "quantization": "int4"}, 0.05),
    Precision("as packed", {"dtype": "auto", "quantization": "auto"}, 0.05),
    Precision("as packed, 8-bit KV", {"dtype": "auto", "quantization": "auto", **INT8_KV}, 0.05),
    Precision("torch: int4", {"dtype": "float32", "runner": "torch", "quantization": "int4"}, 0.05),
    Precision("torch: fp8", {"dtype": "float32", "runner": "torch", "quantization": "fp8"}),
    Precision("torch: int8", {"dtype": "float32", "runner": "torch", "quantization": "int8"}, 0.01),
)


def perplexity(model: str, text: str, window: int, settings: dict[str, Any]) -> tuple[float, int]:
    """exp of the mean negative log-likelihood of a token, and how many tokens were scored."""
    from octavo.engine import LLM, SamplingParams

    llm = LLM(model, device="cpu", kv_cache_memory="512Mi", **settings)
    tokens = llm.tokenizer.encode(text)
    # A window of one token has nothing to score.
    windows = [w for start in range(0, len(tokens), window) if len(w := tokens[start : start + window]) > 1]
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    scored = [
        entry.logprob
        for completion in llm.generate(windows, params, progress=False)
        for entry in completion.prompt_logprobs
    ]
    return math.exp(-sum(scored) / len(scored)), len(scored)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--precision", choices=[p.name for p in PRECISIONS], help="this alone, as JSON")
    options = parser.parse_args()
    if options.precision is not None:
        [settings] = (p.settings for p in PRECISIONS if p.name == options.precision)
        value, count = perplexity(options.model, options.text.read_text(), options.window, settings)
        print(json.dumps({"precision": options.precision, "perplexity": value, "tokens": count}))
        return
    compare(options.model, options.text, options.window)


def compare(model: str, text: Path, window: int) -> None:
    """Each precision in a process of its own: what one leaves in memory is no burden to the next."""
    console, lines = Console(), {}
    table = Table("precision", title=f"{model}, {text.name} in windows of {window} tokens")
    for column in ("perplexity", "against float32", "at most"):
        table.add_column(column, justify="right")
    words = [sys.executable, "-m", "benchmarks.perplexity", "--model", model, "--text", str(text)]
    for precision in PRECISIONS:
        if not precision.is_supported:
            table.add_row(precision.name, "not there yet", "–", "–")
            continue
        with console.status(f"scoring in {precision.name}"):
            try:
                more = ["--window", str(window), "--precision", precision.name]
                [line] = Command([*words, *more]).lines()
            except Failed as failure:
                console.print(f"[red]{precision.name}: {failure}")
                continue
        lines[precision.name] = line
        most = f"{precision.most:+.0%}" if precision.most is not None else "–"
        exact = lines.get("float32", line)["perplexity"]
        table.add_row(
            precision.name, f"{line['perplexity']:.3f}", f"{line['perplexity'] / exact - 1:+.2%}", most
        )
    console.print(table)
    console.print(
        "written:", *map(str, keep("perplexity", {"model": model, "window": window, "lines": lines}))
    )


if __name__ == "__main__":
    main()
