"""The engine on the GPU that is here, with a random model of a known one's shape, beside the card's limits.

    python -m benchmarks.gpu [--shape llama-8b] [--quantization int4] [--sequences 1,32,128] [--graphs off]

Decodes: so many sequences of about `--context` tokens, all decoding. Prefill: prompts of 2,048 tokens. The
limit of a decode is the bytes of weights, keys and values at the rate of the card's memory, that of a prefill
its operations at the rate of what multiplies; both as the data sheet has them.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from benchmarks.kernels import known_card
from rich.console import Console
from rich.table import Table

from octavo.engine.config import EngineConfig
from octavo.engine.loading import load_engine
from octavo.engine.models.files import ModelFiles
from octavo.engine.models.spec import DecoderSpec, RopeSpec, Weight
from octavo.engine.params import SamplingParams
from octavo.engine.runners.torch.linears import BYTES

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from collections.abc import Sequence as Arguments

    from octavo.engine.models.shard import Shard
    from octavo.engine.sequence import Sequence
    from octavo.engine.tokenizer import Tokenizer
    from octavo.kernels.triton.architectures import Card

WARM_UP, COUNTED = 24, 64
"""Steps of a decode."""
PROFILED = 8
UNTOLD = ("sequences", "prompts", "profile")
PREFILL = 2048


def llama(
    layers: int, hidden: int, inner: int, heads: int, kv_heads: int, dim: int, tied: bool
) -> DecoderSpec:
    return DecoderSpec(
        family="llama",
        vocab_size=128256,
        hidden_size=hidden,
        intermediate_size=inner,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=dim,
        norm_eps=1e-5,
        rope=RopeSpec(500000.0, dim),
        max_position=131072,
        tied_embeddings=tied,
    )


SHAPES = {
    "llama-1b": llama(16, 2048, 8192, 32, 8, 64, tied=True),
    "llama-8b": llama(32, 4096, 14336, 32, 8, 128, tied=False),
}
"""Of Llama 3.2 1B and Llama 3.1 8B."""


class RandomFiles(ModelFiles):
    """A model of which only the sizes are somebody's. All matrices are parts of the same random numbers."""

    dtype = "bfloat16"
    path = Path()

    def __init__(self, name: str, spec: DecoderSpec) -> None:
        self.name, self.spec = name, spec
        numbers = 0.02 * np.random.default_rng(0).standard_normal(1 << 24, np.float32)
        self._bits = (numbers.view(np.uint32) >> 16).astype(np.uint16)

    def weights(
        self, as_stored: Container[str] = frozenset(), shard: Shard | None = None
    ) -> Iterator[Weight]:
        for name, shape in self.spec.weight_shapes().items():
            if len(shape) == 1:
                yield Weight(name, "float32", np.ones(shape, np.float32))
            else:
                yield Weight(name, "bfloat16", np.resize(self._bits, math.prod(shape)).reshape(shape))

    def stored_in(self) -> list[Path]:
        return []

    def _load_tokenizer(self) -> Tokenizer:
        raise NotImplementedError("random weights have no tokenizer")

    def _eos_token_ids(self) -> tuple[int, ...]:
        return ()


class Bench:
    """An engine of a random model, and what it may do at best on its card."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.spec = SHAPES[options.shape]
        self._form = None if options.quantization == "none" else options.quantization
        self._context = options.context
        sequences = [int(number) for number in options.sequences.split(",")]
        longest = max(options.context + 2 * COUNTED, PREFILL + 1)
        config = EngineConfig(
            device="cuda",
            runner="torch",
            quantization=options.quantization,
            kernels=options.kernels,
            cuda_graphs=options.graphs,
            overlap=options.overlap,
            kv_cache_dtype=options.kv_cache_dtype,
            max_model_len=longest,
            max_num_seqs=max(sequences),
            max_num_batched_tokens=8192,
            prefix_caching=False,
        )
        self.engine = load_engine(RandomFiles(options.shape, self.spec), config)
        self._rng = np.random.default_rng(0)

    def _add(self, count: int, length: int, num_tokens: int) -> list[Sequence]:
        params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
        added = []
        for prompt in self._rng.integers(0, self.spec.vocab_size, (count, length)).tolist():
            added.append(self.engine.make_sequence(prompt, params))
            self.engine.add(added[-1])
        return added

    def decode_step(self, num_seqs: int) -> float:
        """Its seconds, on average of many."""
        with self._decoding(num_seqs):
            started = time.perf_counter()
            for _ in range(COUNTED):
                self.engine.step()
            return (time.perf_counter() - started) / COUNTED

    @contextmanager
    def _decoding(self, num_seqs: int) -> Iterator[None]:
        """So many sequences have decoded for a while, and do for `COUNTED` steps more; then they end."""
        sequences = self._add(num_seqs, self._context, 2 * COUNTED)
        warm = 0
        while warm < WARM_UP:
            self.engine.step()
            assert self.engine.last_step is not None
            warm += self.engine.last_step.num_decode_tokens == num_seqs
        yield
        for sequence in sequences:
            self.engine.cancel(sequence)
        self._finish()

    def prefill(self, num_prompts: int) -> float:
        """Seconds of them all."""
        self._add(num_prompts, PREFILL, 1)
        self._finish()  # the same once before: kernels are compiled
        started = time.perf_counter()
        self._add(num_prompts, PREFILL, 1)
        self._finish()
        return time.perf_counter() - started

    def profile(self, num_seqs: int) -> str:
        """What a decode of so many, and a prompt, take of the card: their kernels by time."""
        parts = []
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with self._decoding(num_seqs), torch.profiler.profile(activities=activities) as profiler:
            for _ in range(PROFILED):
                self.engine.step()
            torch.cuda.synchronize()
        parts.append(f"{PROFILED} steps of {num_seqs} sequences\n{_by_time(profiler)}")
        with torch.profiler.profile(activities=activities) as profiler:
            self._add(1, PREFILL, 1)
            self._finish()
            torch.cuda.synchronize()
        parts.append(f"a prompt of {PREFILL} tokens\n{_by_time(profiler)}")
        return "\n".join(parts)

    def _finish(self) -> None:
        while self.engine.has_work:
            self.engine.step()

    def least_decode_step(self, num_seqs: int, card: Card) -> float:
        """Weights and keys and values are read once."""
        layers, head = self._weights()
        weights = layers * (2.0 if self._form is None else BYTES[self._form]) + 2.0 * head
        context = num_seqs * (self._context + WARM_UP + COUNTED // 2)
        block_bytes = self.engine.model.block_bytes / self.engine.model.block_size
        return (weights + context * block_bytes) / card.memory

    def least_prefill(self, num_prompts: int, card: Card) -> float:
        layers, head = self._weights()
        pairs = num_prompts * PREFILL * (PREFILL + 1) / 2
        attention = 4 * pairs * self.spec.num_layers * self.spec.num_heads * self.spec.head_dim
        unit = self._form if self._form in ("int8", "fp8") else "bf16"
        products = 2 * num_prompts * (PREFILL * layers + head)
        return products / card.rates[unit] + attention / card.rates["bf16"]

    def _weights(self) -> tuple[int, int]:
        """Of all layers, and of the output."""
        shapes = self.spec.weight_shapes().items()
        layers = sum(math.prod(shape) for name, shape in shapes if name.startswith("layers."))
        return layers, self.spec.vocab_size * self.spec.hidden_size


def _by_time(profiler: torch.profiler.profile) -> str:
    averages = profiler.key_averages()
    return str(averages.table(sort_by="self_device_time_total", row_limit=16, max_name_column_width=60))


def main(arguments: Arguments[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="llama-8b")
    parser.add_argument("--quantization", choices=["none", *BYTES], default="none")
    parser.add_argument("--kv-cache-dtype", choices=["auto", "int8"], default="auto")
    parser.add_argument("--sequences", default="1,8,32,128", help="of the decodes")
    parser.add_argument("--context", type=int, default=1024, help="tokens of each sequence")
    parser.add_argument("--prompts", type=int, default=16, help="of the prefill; 0 for none")
    parser.add_argument("--graphs", choices=["on", "off"], default="on")
    parser.add_argument("--overlap", choices=["on", "off"], default="on")
    parser.add_argument("--kernels", choices=["triton", "reference"], default="triton")
    parser.add_argument("--profile", action="store_true", help="the kernels of the largest decode, too")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("there is no GPU here to measure on", file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name()
    card = known_card(name)
    started = time.perf_counter()
    bench = Bench(options)
    loaded = time.perf_counter() - started
    words = [f"{key} {value}" for key, value in vars(options).items() if key not in UNTOLD]
    table = Table("work", title=f"{name}: {', '.join(words)}; loaded in {loaded:.1f} s")
    for column in ("ms", "tokens/s", "of limit"):
        table.add_column(column, justify="right")

    def add(work: str, seconds: float, tokens: int, least: float | None) -> None:
        share = "–" if least is None else f"{least / seconds:.0%}"
        table.add_row(work, f"{1e3 * seconds:.2f}", f"{tokens / seconds:,.0f}", share)

    for num_seqs in map(int, options.sequences.split(",")):
        seconds = bench.decode_step(num_seqs)
        least = bench.least_decode_step(num_seqs, card) if card else None
        add(f"a step of {num_seqs} × {options.context} tokens", seconds, num_seqs, least)
    if options.prompts:
        seconds = bench.prefill(options.prompts)
        least = bench.least_prefill(options.prompts, card) if card else None
        add(f"{options.prompts} prompts of {PREFILL} tokens", seconds, options.prompts * PREFILL, least)
    Console(width=max(Console().width, 110)).print(table)
    if options.profile:
        print(bench.profile(max(map(int, options.sequences.split(",")))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
