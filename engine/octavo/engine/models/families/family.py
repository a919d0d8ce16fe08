"""What a family declares, and how a configuration becomes a DecoderSpec with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from octavo.engine.models.config import Config
from octavo.engine.models.families.rope import rope_spec
from octavo.engine.models.spec import Activation, DecoderSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


class Features(TypedDict, total=False):
    """The fields of DecoderSpec that only some families have."""

    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    sliding_windows: tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family of decoders.

    name: its `model_type`. architecture: its class in `architectures`.
    gguf_architecture: its name in GGUF files, None where it has none of its own.
    defaults: what Transformers' configuration class takes for keys that config.json lacks.
    features: what of the spec is this family's own.
    gguf_pairs: GGUF files order the rows of q and k so that elements rotated together are neighbours.
    """

    name: str
    architecture: str
    gguf_architecture: str | None
    defaults: Mapping[str, Any]
    features: Callable[[Config], Features]
    gguf_pairs: bool = False

    def spec(self, config: Config) -> DecoderSpec:
        """The decoder that `config` describes. Raises ModelError for what no spec can say."""
        config = Config(config.source, config.values, self.defaults, config.keys)
        num_heads = config.integer("num_attention_heads")
        num_kv_heads = num_heads
        if config.get("num_key_value_heads") is not None:
            num_kv_heads = config.integer("num_key_value_heads")
        if num_heads % num_kv_heads:
            raise config.refusal("num_key_value_heads", f"must divide the {num_heads} query heads")
        head_dim = config.integer("hidden_size") // num_heads
        if config.get("head_dim") is not None:
            head_dim = config.integer("head_dim")
        if config.get("hidden_act") not in ACTIVATIONS:
            raise config.refusal("hidden_act", f"is not supported; supported are {', '.join(ACTIVATIONS)}")
        return DecoderSpec(
            family=self.name,
            vocab_size=config.integer("vocab_size"),
            hidden_size=config.integer("hidden_size"),
            intermediate_size=config.integer("intermediate_size"),
            num_layers=config.integer("num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            norm_eps=config.number("rms_norm_eps"),
            rope=rope_spec(config, head_dim),
            max_position=config.integer("max_position_embeddings"),
            tied_embeddings=config.flag("tie_word_embeddings"),
            activation=ACTIVATIONS[config.get("hidden_act")],
            **self.features(config),
        )


def layer_windows(config: Config) -> tuple[int | None, ...]:
    """Sliding windows of the Qwen families: per layer by `layer_types`, else from `max_window_layers` on."""
    num_layers = config.integer("num_hidden_layers")
    window = config.integer("sliding_window") if config.flag("use_sliding_window") else None
    kinds = config.get("layer_types")
    if kinds is None:
        first = config.get("max_window_layers")
        if not isinstance(first, int):
            raise config.refusal("max_window_layers", "must be an integer")
        return tuple(window if layer >= first else None for layer in range(num_layers))
    known = {"full_attention": None, "sliding_attention": window}
    if not isinstance(kinds, list) or len(kinds) != num_layers or not known.keys() >= set(kinds):
        raise config.refusal("layer_types", f"must name {' or '.join(known)} for {num_layers} layers")
    if window is None and "sliding_attention" in kinds:
        raise config.refusal("layer_types", "needs use_sliding_window and sliding_window")
    return tuple(known[kind] for kind in kinds)
