"""Mistral: Llama with one sliding window on all layers. Its GGUF files are of the architecture `llama`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.engine.models.families.family import Family, Features

if TYPE_CHECKING:
    from octavo.engine.models.config import Config


def _features(config: Config) -> Features:
    if config.get("sliding_window") is None:
        return {}
    return {"sliding_windows": (config.integer("sliding_window"),) * config.integer("num_hidden_layers")}


MISTRAL = Family(
    name="mistral",
    architecture="MistralForCausalLM",
    gguf_architecture=None,
    features=_features,
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "hidden_act": "silu",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "sliding_window": 4096,
    },
)
