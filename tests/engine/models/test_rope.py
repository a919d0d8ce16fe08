"""Frequencies of every scaling, against Transformers' own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from octavo.engine.models.config import Config
from octavo.engine.models.families.llama import LLAMA
from octavo.engine.models.rope import inverse_frequencies
from octavo.engine.models.spec import DynamicScaling, FrequencyFactors, RopeSpec

SCALINGS: dict[str, dict[str, Any]] = {
    "none": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
    "yarn, untruncated": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 512,
        "truncate": False,
    },
    "yarn, all options": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 256,
        "beta_fast": 20.0,
        "beta_slow": 2.0,
        "mscale": 0.7,
        "mscale_all_dim": 1.1,
    },
    "yarn, given attention factor": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 512,
        "attention_factor": 1.25,
    },
}


def llama_config(scaling: dict[str, Any]) -> LlamaConfig:
    parameters = {"rope_theta": 50_000.0, **scaling}
    return LlamaConfig(
        hidden_size=512, num_attention_heads=8, max_position_embeddings=2048, rope_parameters=parameters
    )


def rope_of(config: LlamaConfig) -> RopeSpec:
    return LLAMA.spec(Config("config.json", config.to_dict())).rope


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
def test_frequencies_and_attention_scale_equal_transformers(scaling: dict[str, Any]) -> None:
    config = llama_config(scaling)
    oracle = LlamaRotaryEmbedding(config)

    frequencies, scale = inverse_frequencies(rope_of(config), max_len=2048)

    assert frequencies.dtype == np.float32
    np.testing.assert_allclose(frequencies, oracle.inv_freq.numpy(), rtol=1e-6)
    assert scale == pytest.approx(oracle.attention_scaling)


@pytest.mark.parametrize("max_len", [100, 2048, 2049, 10_000])
def test_dynamic_scaling_is_fixed_by_the_longest_sequence(max_len: int) -> None:
    config = llama_config(SCALINGS["dynamic"])
    oracle, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, seq_len=max_len)

    frequencies, _ = inverse_frequencies(rope_of(config), max_len)

    np.testing.assert_allclose(frequencies, oracle.numpy(), rtol=1e-6)


def test_dynamic_scaling_starts_at_the_models_own_context_length() -> None:
    assert rope_of(llama_config(SCALINGS["dynamic"])).scaling == DynamicScaling(2.0, 2048)


def test_frequency_factors_divide_the_plain_frequencies() -> None:
    plain, _ = inverse_frequencies(RopeSpec(50_000.0, 64), 2048)
    llama3, _ = inverse_frequencies(rope_of(llama_config(SCALINGS["llama3"])), 2048)

    factors = FrequencyFactors(tuple(map(float, plain / llama3)))

    again, scale = inverse_frequencies(RopeSpec(50_000.0, 64, factors), 2048)
    np.testing.assert_allclose(again, llama3, rtol=1e-6)
    assert scale == 1.0
