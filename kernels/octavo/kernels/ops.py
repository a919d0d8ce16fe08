"""The op table: what a decoder step is made of. Every room here implements it for its own tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from octavo.kernels.cache import Int8Cache

Tensor = TypeVar("Tensor")
Put = Callable[[Any], Tensor]
"""Takes a NumPy array to the device."""


class Ops(Protocol[Tensor]):
    """Shapes are in the docstrings; dtype is the model's (float32, bfloat16 or float16) unless one is named.

    A KV cache is [num_blocks, num_kv_heads, block_size, head_dim], one for keys and one for values per layer:
    a block is one piece of memory, and so is each head's part of it. Both may be `Int8Cache`s.
    """

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x: [..., n], weight: [n] → [..., n]: x / √(mean(x²) + eps) · weight, the norm in float32
        (Zhang and Sennrich, 2019)."""
        ...

    def add_rms_norm(self, x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x, delta: [num_tokens, n], weight: [n] → the norm of x + delta, [num_tokens, n].

        x becomes that sum, rounded to its type before the norm, as if the two were ops of their own.
        """
        ...

    def rotary(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: [num_tokens, num_heads, head_dim], cos and sin: [num_tokens, 1, rotary_dim / 2] → as x.

        Rotates the first `rotary_dim` elements of each head, element i with element i + rotary_dim / 2
        (Su et al., 2021, in GPT-NeoX order).
        """
        ...

    def gated_activation(self, x: Tensor, activation: str) -> Tensor:
        """x: [num_tokens, 2 · n], gate before up → [num_tokens, n]: activation(gate) · up."""
        ...

    def pack_linear(self, weight: Tensor, bias: Tensor | None = None) -> Any:
        """weight: [m, n], bias: [m] → what `linear` takes, in whatever form suits the room."""
        ...

    def linear(self, x: Tensor, layer: Any) -> Tensor:
        """x: [num_tokens, n], layer: of `pack_linear` → [num_tokens, m]."""
        ...

    def pack_quantized(self, weight: Tensor, bias: Tensor | None, form: str, group: int | None = None) -> Any:
        """weight: [m, n], bias: [m] → what `quantized_linear` takes, its weights rounded to `form`:

        fp8: e4m3, a scale for each row; activations are rounded to it too, by a scale for each token.
        fp8_weights: the same weights with activations as they are. A room for which the GPU has no products
            of fp8 makes this of fp8.
        int8: signed, a scale for each row or each `group` of its weights; activations too, a scale for each
            token. Sums of products are exact within what shares a scale.
        int4: scale · q + minimum for each `group`, 32, 64 or 128 weights of a row, with activations as they
            are; n is a multiple of it.
        ValueError for another form, or a group that the form has not.
        """
        ...

    def quantized_linear(self, x: Tensor, layer: Any) -> Tensor:
        """x: [num_tokens, n], layer: of `pack_quantized` → [num_tokens, m]."""
        ...

    def route(self, logits: Tensor, top_k: int, renormalize: bool) -> tuple[Tensor, Tensor]:
        """logits: [num_tokens, num_experts] → float32 and int32 [num_tokens, top_k].

        The softmax's top_k weights, in float32, likeliest first, of equals the first expert first, and whose
        they are. renormalize: divided by their sum.
        """
        ...

    def mixture_of_experts(
        self, x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, experts: Tensor, activation: str
    ) -> Tensor:
        """x: [num_tokens, n]; gate_up: [num_experts, 2 · m, n], gate before up; down: [num_experts, n, m];
        weights, experts: as of `route` → [num_tokens, n].

        The sum over a token's experts of weight · down(activation(gate) · up) (Shazeer et al., 2017, section
        2); expert -1 is none. activation: as of `gated_activation`.
        """
        ...

    def plan_adapters(self, adapters: Any, num_adapters: int, like: Tensor) -> Any:
        """What `add_adapters` needs to know of a step, worked out once for all layers.

        adapters: NumPy int32 [num_tokens], each token's adapter, -1 for none. like: a tensor on the device.
        """
        ...

    def add_adapters(self, output: Tensor, x: Tensor, a: Tensor, b: Tensor, plan: Any) -> None:
        """output: [num_tokens, m], x: [num_tokens, n]; a: [num_adapters, rank, n], b: [num_adapters, m,
        rank].

        output += b · a · x with each token's adapter, in place (Hu et al., 2021). The rank is at most 64; an
        adapter of a lower one is padded with zeros, and a factor of its product is part of its b.
        """
        ...

    def plan_attention(
        self,
        query_lens: Any,
        context_lens: Any,
        positions: Any,
        block_tables: Any,
        block_size: int,
        num_kv_heads: int,
        like: Tensor,
        put: Put[Tensor] | None = None,
        longest_context: int | None = None,
    ) -> Any:
        """What `store_kv` and `paged_attention` need to know of a step, worked out once for all layers.

        The arrays are those of a `Batch`: NumPy int32 [num_seqs], [num_seqs], [num_tokens] and
        [num_seqs, max_blocks]. like: a tensor of the model's dtype on its device.
        put: takes an array there, for whoever copies many at once; the tensor is read by launches only.
        longest_context: what launches are made for, if that is more than the longest here.
        """
        ...

    def store_kv(
        self,
        key: Tensor,
        value: Tensor,
        key_cache: Tensor | Int8Cache[Tensor],
        value_cache: Tensor | Int8Cache[Tensor],
        plan: Any,
    ) -> None:
        """key, value: [num_tokens, num_kv_heads, head_dim], put where the block tables have the tokens."""
        ...

    def copy_blocks(self, cache: Tensor | Int8Cache[Tensor], copies: Tensor) -> None:
        """cache: [num_blocks, ...], copies: int64 [num_copies, 2], (source, target). All sources are
        read before any target is written: a block freed in this step may be both."""
        ...

    def paged_attention(
        self,
        query: Tensor,
        key_cache: Tensor | Int8Cache[Tensor],
        value_cache: Tensor | Int8Cache[Tensor],
        plan: Any,
        scale: float,
        window: int | None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """query: [num_tokens, num_heads, head_dim] → the same shape.

        Causal attention of each sequence's last `query_len` positions over its `context_len` tokens in the
        cache, their own included, found through its block table (Kwon et al., 2023, section 4.3). Query heads
        share key-value heads in groups, in order. With a window, a token sees itself and the `window - 1`
        before it.
        softcap: scores s become softcap · tanh(s / softcap) (Gemma 2, section 2). sinks: [num_heads], a score
        of each head for a key without a value, in the softmax of every token (gpt-oss's model card).
        """
        ...

    def sample(self, logits: Tensor, sampling: Any, put: Put[Tensor] | None = None) -> Any:
        """logits: [num_rows, vocab_size], sampling: SamplingBatch → the fields of StepOutput, on the device.

        In this order: reported log-probabilities are of the logits as they are; then penalties, biases,
        masks, temperature, top-k, top-p, min-p; then one draw per row, by inversion of the distribution over
        the tokens in order of their ids at a uniform number that depends on (seed, draw) alone. Temperature 0
        takes the likeliest token, the lowest id of equal ones. Rows of a beam search have log-probabilities
        instead of logits from the penalties on, and end with the masks.
        put: takes an array to the device, at once.
        """
        ...

    def score(self, logits: Tensor, targets: Any, most: int, put: Put[Tensor] | None = None) -> Any:
        """logits: [num_rows, vocab_size], targets: int32 [num_rows] → natural logarithms, float32.

        Log-probabilities of the targets, [num_rows]; the `most` likeliest tokens and theirs, likeliest first,
        [num_rows, most] each.
        """
        ...
