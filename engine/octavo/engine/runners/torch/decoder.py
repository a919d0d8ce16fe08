"""The decoder that a `DecoderSpec` describes, as a sequence of ops over paged keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from octavo.engine.models.rope import inverse_frequencies
from octavo.kernels.cache import Int8Cache

if TYPE_CHECKING:
    from octavo.engine.models.shard import Shard
    from octavo.engine.runners.torch.collectives import Collectives
    from octavo.engine.runners.torch.linears import Linears
    from octavo.kernels.ops import Ops

Cache = Tensor | Int8Cache[Tensor]
Caches = list[tuple[Cache, Cache]]
"""Per layer the KV caches of keys and of values."""


@dataclass(frozen=True, slots=True)
class Step:
    """What the decoder needs to know of a step.

    token_ids, positions: int64 [num_tokens]; rows: int64 [num_rows], the tokens whose logits are wanted.
    attention: of `Ops.plan_attention`.
    """

    token_ids: Tensor
    positions: Tensor
    rows: Tensor
    attention: Any


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's weights; what is `Any` is of `Linears.pack`."""

    attention_norm: Tensor
    qkv: Any
    q_norm: Tensor | None
    k_norm: Tensor | None
    o: Any
    mlp_norm: Tensor
    gate_up: Any
    down: Any
    window: int | None


class Decoder:
    """One rank's part of the decoder; the whole of it where there is but one.

    Takes its weights out of the given dictionary, which `load_weights` has made.
    """

    def __init__(
        self,
        shard: Shard,
        weights: dict[str, Any],
        ops: Ops[Tensor],
        linears: Linears,
        collectives: Collectives,
        max_model_len: int,
    ) -> None:
        self._spec = spec = shard.spec
        self._shard = shard
        self._ops = ops
        self._linears = linears
        self._collectives = collectives
        self.embedding: Tensor = weights.pop("embedding")
        tied = spec.tied_embeddings
        self._output = ops.pack_linear(self.embedding) if tied else weights.pop("output")
        self._final_norm = weights.pop("final_norm")
        self._layers = [
            Layer(
                attention_norm=weights.pop(f"layers.{i}.attention_norm"),
                qkv=weights.pop(f"layers.{i}.qkv"),
                q_norm=weights.pop(f"layers.{i}.q_norm", None),
                k_norm=weights.pop(f"layers.{i}.k_norm", None),
                o=weights.pop(f"layers.{i}.o"),
                mlp_norm=weights.pop(f"layers.{i}.mlp_norm"),
                gate_up=weights.pop(f"layers.{i}.gate_up"),
                down=weights.pop(f"layers.{i}.down"),
                window=spec.sliding_window(i),
            )
            for i in range(spec.num_layers)
        ]
        assert not weights, f"weights that no layer takes: {sorted(weights)}"
        self._cos, self._sin = self._rotations(max_model_len)

    def logits(self, step: Step, caches: Caches) -> Tensor:
        """Stores the step's keys and values in the caches; the logits of its rows, [num_rows, vocab_size] on
        rank 0 and of no use on others."""
        spec, ops, linear, together = self._spec, self._ops, self._linears, self._collectives
        cos, sin = self._cos[step.positions], self._sin[step.positions]
        x = self._embed(step.token_ids)
        h = ops.rms_norm(x, self._layers[0].attention_norm, spec.norm_eps)
        next_norms = [*(layer.attention_norm for layer in self._layers[1:]), self._final_norm]
        for i, (layer, next_norm) in enumerate(zip(self._layers, next_norms, strict=True)):
            h = self._attention(h, layer, cos, sin, step, caches[i])
            if i == spec.num_layers - 1:
                # Only the rows that are asked for matter from here on, and a prefill chunk may have none.
                x, h = x[step.rows], h[step.rows]
                if not len(step.rows):
                    return x.new_empty(0, sum(self._shard.vocabulary))
            attended = together.all_reduce(linear(h, layer.o))
            h = ops.add_rms_norm(x, attended, layer.mlp_norm, spec.norm_eps)
            h = ops.gated_activation(linear(h, layer.gate_up), spec.activation)
            h = ops.add_rms_norm(x, together.all_reduce(linear(h, layer.down)), next_norm, spec.norm_eps)
        return together.gather(ops.linear(h, self._output), self._shard.vocabulary)

    def _embed(self, token_ids: Tensor) -> Tensor:
        """[num_tokens, hidden_size]: each token's row is some rank's, and zeros on the others."""
        if self._shard.size == 1:
            return self.embedding[token_ids]
        own = token_ids - self._shard.first_token
        elsewhere = (own < 0) | (own >= len(self.embedding))
        x = self.embedding[own.masked_fill(elsewhere, 0)].masked_fill_(elsewhere[:, None], 0)
        return self._collectives.all_reduce(x)

    def _attention(
        self, h: Tensor, layer: Layer, cos: Tensor, sin: Tensor, step: Step, caches: tuple[Cache, Cache]
    ) -> Tensor:
        """h: [num_tokens, hidden_size] → [num_tokens, num_heads * head_dim]."""
        spec, ops = self._spec, self._ops
        heads = self._linears(h, layer.qkv).view(len(h), -1, spec.head_dim)
        num_rotated = spec.num_heads + spec.num_kv_heads
        queries_and_keys, values = heads[:, :num_rotated], heads[:, num_rotated:]
        if layer.q_norm is not None and layer.k_norm is not None:
            queries = ops.rms_norm(heads[:, : spec.num_heads], layer.q_norm, spec.norm_eps)
            keys = ops.rms_norm(heads[:, spec.num_heads : num_rotated], layer.k_norm, spec.norm_eps)
            queries_and_keys = torch.cat([queries, keys], dim=1)
        queries_and_keys = ops.rotary(queries_and_keys, cos, sin)
        queries, keys = queries_and_keys[:, : spec.num_heads], queries_and_keys[:, spec.num_heads :]
        ops.store_kv(keys, values, *caches, step.attention)
        scale = spec.head_dim**-0.5
        return ops.paged_attention(queries, *caches, step.attention, scale, layer.window).flatten(1)

    def _rotations(self, max_model_len: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of every position, [max_model_len, 1, rotary_dim / 2], in the model's type."""
        frequencies, scale = inverse_frequencies(self._spec.rope, max_model_len)
        angles = torch.outer(torch.arange(max_model_len).float(), torch.from_numpy(frequencies))[:, None]
        return (angles.cos() * scale).to(self.embedding), (angles.sin() * scale).to(self.embedding)
