"""Llama 1 to 3, SmolLM2 and the many models that share their architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.engine.models.families.family import Family, Features

if TYPE_CHECKING:
    from octavo.engine.models.config import Config


def _features(config: Config) -> Features:
    bias = config.flag("attention_bias")
    return {"qkv_bias": bias, "output_bias": bias, "mlp_bias": config.flag("mlp_bias")}


LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    gguf_architecture="llama",
    gguf_pairs=True,
    features=_features,
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
    },
)
