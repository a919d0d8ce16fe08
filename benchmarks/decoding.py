"""What the decoding modes cost, and what they save, against plain decoding in the same run.

    python benchmarks/decoding.py [--model smollm2] [--dtype bfloat16] [--rounds 3]

Sides alternate, and each ratio is the median of the rounds' own, so that a machine whose speed drifts is fair
to both. Step times are medians of the steps that only decode.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from octavo.engine.config import EngineConfig
from octavo.engine.constraints import NONE, ConstraintCompiler
from octavo.engine.engine import Engine
from octavo.engine.loading import load_engine
from octavo.engine.models.source import open_model
from octavo.engine.params import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from octavo.engine.constraints import Constraints
    from octavo.engine.tokenizer import Tokenizer

SCHEMA = {
    "type": "array",
    "minItems": 30,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 3, "maxLength": 24},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 3},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    },
}
TEXT = """The library opens at nine and closes at six, except on Fridays, when it stays open until eight.
Readers may borrow up to six books for three weeks; a book that nobody else has asked for can be
kept for three weeks more. Newspapers and maps are read in the hall on the second floor, where
the light is best in the morning. Whoever loses a book pays for a new copy, or brings one.
Children under twelve need a card of their own, signed by a parent."""


class Bench:
    """Engines over the same weights, one without guesses and one with."""

    def __init__(self, model: str, dtype: str) -> None:
        files = open_model(model)
        config = EngineConfig(model=model, dtype=dtype, kv_cache_memory="600Mi", speculation="ngram")  # type: ignore[arg-type]
        self.guessing = load_engine(files, config)
        self.tokenizer: Tokenizer = files.tokenizer()
        self.plain = Engine(self.guessing._runner, self.guessing.model, replace(config, speculation="off"))
        self.compiler = ConstraintCompiler(self.tokenizer, self.plain.model)

    def steps(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        constraints: Constraints = NONE,
        *,
        num_seqs: int,
        most: int = 10**9,
    ) -> float:
        """Seconds of the median step in which `num_seqs` sequences decode, and nothing else is computed."""
        engine = self.plain
        firsts = [engine.make_sequence(prompt, params, constraints=constraints) for prompt in prompts]
        for first in firsts:
            engine.add(first)
        times: list[float] = []
        while engine.has_work and len(times) < most:
            start = time.perf_counter()
            engine.step()
            seconds, step = time.perf_counter() - start, engine.last_step
            if step is not None and step.num_prefill_tokens == 0 and step.num_decode_tokens == num_seqs:
                times.append(seconds)
        for first in firsts:
            engine.cancel(first)
        return statistics.median(times)

    def seconds(self, engine: Engine, prompts: Sequence[Sequence[int]], params: SamplingParams) -> float:
        """Seconds from the first token of all to the last one: the prompts' time is not counted."""
        firsts = [engine.make_sequence(prompt, params) for prompt in prompts]
        for first in firsts:
            engine.add(first)
        while any(first.num_output_tokens == 0 for first in firsts):
            engine.step()
        start = time.perf_counter()
        while engine.has_work:
            engine.step()
        return time.perf_counter() - start


def beams(bench: Bench) -> tuple[float, float]:
    """(a step of beam search with 4 beams, one of 4 sequences)."""
    prompt = prompt_of(bench, 128)
    beam = SamplingParams(beam_width=4, max_tokens=48, ignore_eos=True)
    plain = SamplingParams(temperature=0, max_tokens=48, ignore_eos=True)
    others = [[token + i for token in prompt] for i in range(4)]
    return bench.steps([prompt], beam, num_seqs=4), bench.steps(others, plain, num_seqs=4)


def structured(bench: Bench) -> tuple[float, float]:
    """(a step of 16 sequences that write JSON of a schema, one of 16 that write anything)."""
    prompts = [prompt_of(bench, 64 + i) for i in range(16)]
    shaped = SamplingParams(seed=1, max_tokens=64, json_schema=json.dumps(SCHEMA), logprobs=0)
    constraints = bench.compiler.compile(shaped)
    plain = SamplingParams(seed=1, max_tokens=64, ignore_eos=True, logprobs=0)
    return (
        bench.steps(prompts, shaped, constraints, num_seqs=16),
        bench.steps(prompts, plain, num_seqs=16),
    )


def copying(bench: Bench) -> tuple[float, float]:
    """(plain decoding, with prompt lookup) of a text that is edited in one place."""
    question = f"{TEXT}\n\nThe same text again, with nine replaced by ten:\n\n"
    prompt = bench.tokenizer.encode(f"{question}{TEXT[:60].replace('nine', 'ten')}")
    params = SamplingParams(temperature=0, max_tokens=96, ignore_eos=True)
    return bench.seconds(bench.plain, [prompt], params), bench.seconds(bench.guessing, [prompt], params)


def random_text(bench: Bench) -> tuple[float, float]:
    """(plain decoding, with prompt lookup) of text that is drawn at random from a flat distribution."""
    prompts = [prompt_of(bench, 128)]
    params = SamplingParams(temperature=1.5, seed=1, max_tokens=160, ignore_eos=True)
    return bench.seconds(bench.plain, prompts, params), bench.seconds(bench.guessing, prompts, params)


def prompt_of(bench: Bench, length: int) -> list[int]:
    rng = random.Random(length)
    return [rng.randrange(100, bench.plain.model.vocab_size - 100) for _ in range(length)]


MEASURES: list[tuple[str, Callable[[Bench], tuple[float, float]], str]] = [
    ("step of 4 beams ÷ of 4 sequences", beams, "≤ 1.30"),
    ("step of 16 × JSON of a schema ÷ of 16 × anything", structured, "≤ 1.10"),
    ("copy editing: plain ÷ with prompt lookup", copying, "≥ 1.50"),
    ("random text: plain ÷ with prompt lookup", random_text, "≥ 0.95"),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    bench = Bench(arguments.model, arguments.dtype)
    table = Table("what", "one side, ms", "other, ms", "ratio", "wanted", title=f"{bench.plain.model.name}")
    with Progress(transient=True) as progress:
        for name, measure, wanted in progress.track(MEASURES, description="measuring"):
            measure(bench)
            pairs = [measure(bench) for _ in range(arguments.rounds)]
            ratio = statistics.median(one / other for one, other in pairs)
            one, other = (1000 * statistics.median(side) for side in zip(*pairs, strict=True))
            table.add_row(name, f"{one:.1f}", f"{other:.1f}", f"{ratio:.2f}", wanted)
    Console().print(table)


if __name__ == "__main__":
    main()
