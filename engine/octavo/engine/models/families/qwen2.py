"""Qwen2 and Qwen2.5: biases on queries, keys and values; sliding windows on the upper layers if asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.engine.models.families.family import Family, Features, layer_windows

if TYPE_CHECKING:
    from octavo.engine.models.config import Config


def _features(config: Config) -> Features:
    return {"qkv_bias": True, "sliding_windows": layer_windows(config)}


QWEN2 = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    gguf_architecture="qwen2",
    features=_features,
    defaults={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
)
