"""Which matrices the native decoder has, and where each of the checkpoint's weights goes in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octavo.engine.models.spec import DecoderSpec

GATED_RUN = 16
"""Gate and up lie in turns of so many columns, so that a tile of a product holds both."""


@dataclass(frozen=True, slots=True)
class Part:
    """A weight's place in a matrix: its row i is column first + i // run * jump + i % run."""

    weight: str
    first: int
    run: int
    jump: int

    def column(self, row: int) -> int:
        return self.first + row // self.run * self.jump + row % self.run


@dataclass(frozen=True, slots=True)
class Matrix:
    """Weights that are computed as one product, [n, k]."""

    name: str
    n: int
    k: int
    parts: tuple[Part, ...]
    has_bias: bool


def matrices(spec: DecoderSpec) -> list[Matrix]:
    """All matrices of a decoder: embedding, output (absent where tied), and four of each layer."""
    hidden, inner = spec.hidden_size, spec.intermediate_size
    q_size, kv_size = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    found = [_whole("embedding", spec.vocab_size, hidden, has_bias=False)]
    if not spec.tied_embeddings:
        found.append(_whole("output", spec.vocab_size, hidden, has_bias=False))
    for i in range(spec.num_layers):
        layer = f"layers.{i}."
        q, k, v = (_part(layer + name, first) for name, first in
                   (("q", 0), ("k", q_size), ("v", q_size + kv_size)))  # fmt: skip
        gate, up = (Part(layer + name, first, GATED_RUN, 2 * GATED_RUN)
                    for name, first in (("gate", 0), ("up", GATED_RUN)))  # fmt: skip
        found += [
            Matrix(layer + "qkv", q_size + 2 * kv_size, hidden, (q, k, v), spec.qkv_bias),
            _whole(layer + "o", hidden, q_size, has_bias=spec.output_bias),
            Matrix(layer + "gate_up", 2 * inner, hidden, (gate, up), spec.mlp_bias),
            _whole(layer + "down", hidden, inner, has_bias=spec.mlp_bias),
        ]
    return found


def vectors(spec: DecoderSpec) -> dict[str, int]:
    """The norms of a decoder, and their lengths."""
    found = {"final_norm": spec.hidden_size}
    for i in range(spec.num_layers):
        layer = f"layers.{i}."
        found |= {layer + "attention_norm": spec.hidden_size, layer + "mlp_norm": spec.hidden_size}
        if spec.qk_norm:
            found |= {layer + "q_norm": spec.head_dim, layer + "k_norm": spec.head_dim}
    return found


def _part(weight: str, first: int) -> Part:
    return Part(weight, first, 1 << 30, 0)


def _whole(name: str, n: int, k: int, *, has_bias: bool) -> Matrix:
    return Matrix(name, n, k, (_part(name, 0),), has_bias)
