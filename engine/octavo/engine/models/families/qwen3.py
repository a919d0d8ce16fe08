"""Qwen3: norms on the heads of queries and keys, and a head dimension of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.engine.models.families.family import Family, Features, layer_windows

if TYPE_CHECKING:
    from octavo.engine.models.config import Config


def _features(config: Config) -> Features:
    bias = config.flag("attention_bias")
    windows = layer_windows(config)
    return {"qk_norm": True, "qkv_bias": bias, "output_bias": bias, "sliding_windows": windows}


QWEN3 = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    gguf_architecture="qwen3",
    features=_features,
    defaults={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
)
