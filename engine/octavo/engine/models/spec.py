"""A decoder as data: everything that the model families differ in, and the names and shapes of its
weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Activation = Literal["silu", "gelu", "gelu_tanh"]


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Positions divided by `factor` (position interpolation, Chen et al., 2023)."""

    factor: float


@dataclass(frozen=True, slots=True)
class DynamicScaling:
    """NTK-aware scaling of theta, once the context served is longer than `original_max_position`.

    Transformers recomputes the frequencies as a sequence grows, which leaves cached keys rotated with old
    ones. Here they are fixed by the context length served, so that cached blocks can be shared: equal to
    Transformers for contexts up to `original_max_position`, and for longer ones when the sequence fills the
    context.
    """

    factor: float
    original_max_position: int


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1: low frequencies divided by `factor`, high ones kept, those between interpolated."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (Peng et al., 2023): interpolation by wavelength, with a temperature on the attention logits."""

    factor: float
    original_max_position: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


RopeScaling = LinearScaling | DynamicScaling | Llama3Scaling | YarnScaling


@dataclass(frozen=True, slots=True)
class FrequencyFactors:
    """Divisors of the plain frequencies, [rotary_dim / 2], as GGUF files store Llama 3's scaling
    (`rope_freqs`)."""

    factors: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary position embedding over the first `rotary_dim` elements of each head, halves rotated (GPT-NeoX
    order)."""

    theta: float
    rotary_dim: int
    scaling: RopeScaling | FrequencyFactors | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """One decoder-only transformer. Linear weights are [out_features, in_features]."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rope: RopeSpec
    max_position: int
    """Context length in tokens that the model was made for, scaling included."""
    tied_embeddings: bool
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    """RMS norm over each head of queries and keys, before the rotation (Qwen3)."""
    activation: Activation = "silu"
    sliding_windows: tuple[int | None, ...] = ()
    """Per layer: how many positions, itself included, a token sees; None or missing for all."""

    def sliding_window(self, layer: int) -> int | None:
        return self.sliding_windows[layer] if layer < len(self.sliding_windows) else None

    @property
    def kv_elements_per_token(self) -> int:
        """Elements of all layers' keys and values for one token."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical name of every weight of this decoder, with its shape.

        `embedding`, `final_norm`, `output` (absent when tied), and per layer `layers.{i}.` +
        `attention_norm`, `q`, `k`, `v`, `o`, `q_norm`, `k_norm`, `mlp_norm`, `gate`, `up`, `down`; a bias is
        its weight's name + `.bias`.
        """
        hidden, inner, dim = self.hidden_size, self.intermediate_size, self.head_dim
        q_size, kv_size = self.num_heads * dim, self.num_kv_heads * dim
        shapes: dict[str, tuple[int, ...]] = {
            "embedding": (self.vocab_size, hidden),
            "final_norm": (hidden,),
        }
        if not self.tied_embeddings:
            shapes["output"] = (self.vocab_size, hidden)
        linears = {
            "q": (q_size, hidden, self.qkv_bias),
            "k": (kv_size, hidden, self.qkv_bias),
            "v": (kv_size, hidden, self.qkv_bias),
            "o": (hidden, q_size, self.output_bias),
            "gate": (inner, hidden, self.mlp_bias),
            "up": (inner, hidden, self.mlp_bias),
            "down": (hidden, inner, self.mlp_bias),
        }
        for i in range(self.num_layers):
            prefix = f"layers.{i}."
            shapes[prefix + "attention_norm"] = shapes[prefix + "mlp_norm"] = (hidden,)
            if self.qk_norm:
                shapes[prefix + "q_norm"] = shapes[prefix + "k_norm"] = (dim,)
            for name, (rows, columns, bias) in linears.items():
                shapes[prefix + name] = (rows, columns)
                if bias:
                    shapes[prefix + name + ".bias"] = (rows,)
        return shapes


StoredType = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight as a loader yields it, under its canonical name, whole or a rank's part of it.

    data: float32 or float16 values; bfloat16 comes as the uint16 array of its bits, since NumPy has no such
    type. Often a read-only view of the mapped file: copy before writing.
    ggml_type: the number of a type of GGML's blocks, where `data` is such blocks, uint8 [rows, bytes of a
        row]; dtype means nothing then.
    """

    name: str
    dtype: StoredType
    data: np.ndarray
    ggml_type: int | None = None
