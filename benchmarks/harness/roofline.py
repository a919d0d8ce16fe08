"""The least time in which this machine could do a workload: its bytes at the rate of memory, or its
operations at the rate of the matrix instructions, whichever takes longer in each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from octavo.engine.models.source import open_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.harness.machine import Limits
    from benchmarks.harness.workloads import Workload


@dataclass(frozen=True, slots=True)
class Shape:
    """What a decoder costs.

    layer_weights, head_weights: elements of all layers' matrices, and of the output projection.
    attention: multiplications of one token with one earlier one, all layers.
    kv_elements: keys and values of one token, all layers.
    packed_bytes: of all weights, as the checkpoint has them.
    """

    layer_weights: int
    head_weights: int
    attention: int
    kv_elements: int
    packed_bytes: int

    @classmethod
    def of(cls, model: str) -> Shape:
        files = open_model(model)
        spec, shapes = files.spec, files.spec.weight_shapes()
        matrices = {name: math.prod(shape) for name, shape in shapes.items() if len(shape) > 1}
        return cls(
            layer_weights=sum(n for name, n in matrices.items() if name.startswith("layers.")),
            head_weights=spec.vocab_size * spec.hidden_size,
            attention=2 * spec.num_layers * spec.num_heads * spec.head_dim,
            kv_elements=spec.kv_elements_per_token,
            packed_bytes=_file_bytes(files.path),
        )

    @property
    def weights(self) -> int:
        return self.layer_weights + self.head_weights


def _file_bytes(path: Path) -> int:
    files = [path] if path.is_file() else list(path.glob("*.safetensors"))
    return sum(file.stat().st_size for file in files)


@dataclass(frozen=True, slots=True)
class Roofline:
    """shape: of the model. weight_bytes: of all weights, as they are computed from. rate: operations per
    second of its products; None if that is not known. kv_bytes: of one element of the KV cache."""

    shape: Shape
    limits: Limits
    weight_bytes: float
    rate: float | None
    kv_bytes: float = 2.0

    def seconds(self, workload: Workload) -> float | None:
        """None where it takes the rate of products to know it."""
        name, prompts, out, n = workload
        if self.rate is None and name != "single":
            return None
        shared = _common(prompts)
        lengths = [len(prompt) - shared for prompt in prompts]
        rows = n * len(prompts)
        total = self._step([*lengths, shared], drawn=rows, read=0, seen=shared * sum(lengths))
        # Of tokens that several share, keys and values need reading but once a step.
        for produced in range(1, out):
            read = shared + sum(lengths) + rows * produced
            seen = n * sum(map(len, prompts)) + rows * produced
            total += self._step([], drawn=rows, read=read, decoded=rows, seen=seen)
        return total

    def _step(
        self, chunks: Sequence[int], *, drawn: int, read: int, decoded: int = 0, seen: int = 0
    ) -> float:
        """chunks: lengths of prompts. read: tokens whose keys and values are read. seen: tokens that all rows
        attend to, together."""
        shape = self.shape
        memory = (self.weight_bytes + read * shape.kv_elements * self.kv_bytes) / self.limits.memory_read
        if self.rate is None:
            return memory
        tokens = sum(chunks) + decoded
        attended = seen + sum(length * length / 2 for length in chunks)
        products = 2 * (tokens * shape.layer_weights + drawn * shape.head_weights)
        attention = 2 * attended * shape.attention
        return max(memory, products / self.rate + attention / self.limits.bf16)


def _common(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens with which all prompts begin; none of a single one."""
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
