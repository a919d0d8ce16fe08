"""What a step costs beside the runner: who schedules, batches, advances sequences and makes text.

    python -m benchmarks.step_costs [--num-seqs 32] [--configuration bf16] [--no-model]

Counts the steps in which all sequences decode and nothing else is computed. The share outside the runner is
taken from a run in which the runner alone is timed: the clocks of the other parts cost something themselves.
With --no-model a runner answers at once with any tokens, so that a profiler sees nothing but the engine.
"""

from __future__ import annotations

import argparse
import functools
import random
import statistics
import time
from collections import defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
from benchmarks.harness.configurations import CONFIGURATIONS, configuration
from benchmarks.harness.workloads import prompt
from rich.console import Console
from rich.table import Table

import octavo.engine.planned_step
from octavo.engine import LLM, SamplingParams
from octavo.engine.assembler import Assembler
from octavo.engine.batch import StepOutput
from octavo.engine.decoding import Decoding
from octavo.engine.outputs import Outputs
from octavo.engine.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo.engine.batch import Batch
    from octavo.engine.engine import Engine

PARTS: dict[str, tuple[Any, str]] = {
    "schedule": (Scheduler, "schedule"),
    "build the batch": (octavo.engine.planned_step, "build_batch"),
    "advance sequences": (Decoding, "take"),
    "deliver": (Outputs, "take"),
    "make text": (Assembler, "take"),
}
RUNNER, REST = "runner", "the rest of the loop"


class Clocks:
    """Seconds of each part, without those of the parts that it calls; collected step by step.

    steps: of every step that only decoded, its parts.
    """

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._now: dict[str, float] = defaultdict(float)
        self._inner = [0.0]
        self._last = 0.0

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds = time.perf_counter() - start
                self._now[part] += seconds - self._inner.pop()
                self._inner[-1] += seconds

        return call

    def lap(self, counts: bool) -> None:
        """A step begins: all since the last one was its."""
        now = time.perf_counter()
        if counts and RUNNER in self._now:  # not the step before the clocks were there
            parts = dict(self._now)
            parts[REST] = now - self._last - sum(parts.values())
            self.steps.append(parts)
        self._now.clear()
        self._inner[:] = [0.0]
        self._last = now


class AnyTokens:
    """Stands in for a runner: answers at once."""

    def __init__(self, vocab_size: int) -> None:
        self._tokens = np.random.default_rng(0).integers(100, vocab_size - 100, 1 << 16, dtype=np.int32)
        self._at = 0

    def run(self, batch: Batch) -> StepOutput:
        rows = len(batch.sampling)
        self._at = (self._at + rows) % (len(self._tokens) - rows)
        return StepOutput(token_ids=self._tokens[self._at : self._at + rows])


def measure(llm: LLM, num_seqs: int, num_tokens: int, parts: dict[str, tuple[Any, str]]) -> Clocks:
    """Generates for `num_seqs` prompts, with clocks at the runner and at `parts`."""
    clocks, engine = Clocks(), llm._engine
    step = engine.step

    def lapped() -> Any:
        last = engine.last_step
        clocks.lap(last is not None and last.num_decode_tokens == num_seqs and not last.num_prefill_tokens)
        return step()

    rng = random.Random(num_seqs)
    prompts = [prompt(rng, rng.randint(64, 256)) for _ in range(num_seqs)]
    params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    with ExitStack() as stack:
        stack.enter_context(patch.object(engine, "step", lapped))
        runner: Any = engine._runner
        stack.enter_context(patch.object(runner, "run", clocks.timed(RUNNER, runner.run)))
        for part, (owner, name) in parts.items():
            stack.enter_context(patch.object(owner, name, clocks.timed(part, getattr(owner, name))))
        llm.generate(prompts, params, progress=False)
    return clocks


def median(clocks: Clocks, part: str) -> float:
    return statistics.median(step.get(part, 0.0) for step in clocks.steps)


def outside(clocks: Clocks) -> tuple[float, float]:
    """Seconds of a step beside the runner, and their share of it: the median step's."""
    beside = [sum(step.values()) - step[RUNNER] for step in clocks.steps]
    shares = [1 - step[RUNNER] / sum(step.values()) for step in clocks.steps]
    return statistics.median(beside), statistics.median(shares)


def without_model(engine: Engine) -> None:
    engine._runner = AnyTokens(engine.model.vocab_size)  # type: ignore[assignment]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--configuration", default="bf16", choices=[c.name for c in CONFIGURATIONS])
    parser.add_argument("--num-seqs", type=int, default=32)
    parser.add_argument("--num-tokens", type=int, default=96)
    parser.add_argument("--no-model", action="store_true")
    options = parser.parse_args()

    settings = configuration(options.configuration).settings
    llm = LLM(options.model, device="cpu", max_num_seqs=options.num_seqs, **settings)
    if options.no_model:
        without_model(llm._engine)
    measure(llm, options.num_seqs, 8, {})
    plain = measure(llm, options.num_seqs, options.num_tokens, {})
    fine = measure(llm, options.num_seqs, options.num_tokens, PARTS)
    table = Table("part of a step", title=f"{options.num_seqs} sequences that decode, {llm.model.dtype}")
    table.add_column("µs", justify="right")
    table.add_column("share", justify="right")
    whole = statistics.median(sum(step.values()) for step in fine.steps)
    for part in (*PARTS, REST, RUNNER):
        seconds = median(fine, part)
        table.add_row(part, f"{1e6 * seconds:,.0f}", f"{seconds / whole:.1%}")
    table.add_section()
    seconds, share = outside(plain)
    table.add_row("all but the runner, not timed in parts", f"{1e6 * seconds:,.0f}", f"{share:.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
