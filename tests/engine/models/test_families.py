"""From config.json to a DecoderSpec: Transformers' defaults, both styles, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from octavo.engine.errors import ModelError
from octavo.engine.models.config import Config
from octavo.engine.models.families import FAMILIES, Family, family_of_gguf, family_of_hugging_face
from octavo.engine.models.spec import (
    DecoderSpec,
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    YarnScaling,
)

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def spec_of(family: str, /, **values: Any) -> DecoderSpec:
    config = Config("config.json", {"model_type": family, **values})
    return family_of_hugging_face(config).spec(config)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_an_empty_config_means_transformers_defaults(family: Family) -> None:
    stated = AutoConfig.for_model(family.name).to_dict()

    assert spec_of(family.name) == spec_of(family.name, **stated)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_config_that_transformers_saved_is_read_in_full(family: Family) -> None:
    config = AutoConfig.for_model(
        family.name,
        vocab_size=1000,
        hidden_size=96,
        intermediate_size=200,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        rms_norm_eps=1e-5,
        max_position_embeddings=777,
        tie_word_embeddings=True,
        hidden_act="gelu_pytorch_tanh",
        rope_theta=123.0,
    )

    spec = spec_of(family.name, **config.to_dict())

    assert (spec.vocab_size, spec.hidden_size, spec.intermediate_size) == (1000, 96, 200)
    assert (spec.num_layers, spec.num_heads, spec.num_kv_heads, spec.head_dim) == (3, 6, 2, 32)
    assert (spec.norm_eps, spec.max_position, spec.tied_embeddings) == (1e-5, 777, True)
    assert (spec.activation, spec.rope.theta, spec.rope.rotary_dim) == ("gelu_tanh", 123.0, 32)


def test_missing_key_value_heads_mean_as_many_as_query_heads() -> None:
    assert spec_of("llama", num_attention_heads=16, hidden_size=1024).num_kv_heads == 16


def test_llama_has_biases_where_its_config_says_so() -> None:
    spec = spec_of("llama", attention_bias=True, mlp_bias=True)

    assert (spec.qkv_bias, spec.output_bias, spec.mlp_bias) == (True, True, True)


def test_qwen2_has_biases_on_queries_keys_and_values_only() -> None:
    spec = spec_of("qwen2")

    assert (spec.qkv_bias, spec.output_bias, spec.qk_norm) == (True, False, False)


def test_qwen3_has_norms_on_queries_and_keys_and_biases_if_asked() -> None:
    spec = spec_of("qwen3", attention_bias=True)

    assert (spec.qkv_bias, spec.output_bias, spec.qk_norm, spec.head_dim) == (True, True, True, 128)


@pytest.mark.parametrize(("window", "expected"), [(99, (99, 99)), (None, ())])
def test_mistral_has_one_window_on_all_layers(window: int | None, expected: tuple[int, ...]) -> None:
    assert spec_of("mistral", sliding_window=window, num_hidden_layers=2).sliding_windows == expected


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_qwen_windows_begin_at_max_window_layers(family: str) -> None:
    values = {"num_hidden_layers": 3, "sliding_window": 64, "max_window_layers": 1}

    assert spec_of(family, **values).sliding_windows == (None, None, None)
    assert spec_of(family, use_sliding_window=True, **values).sliding_windows == (None, 64, 64)


def test_qwen_layer_types_decide_over_max_window_layers() -> None:
    kinds = ["sliding_attention", "full_attention"]

    spec = spec_of(
        "qwen3", num_hidden_layers=2, layer_types=kinds, use_sliding_window=True, sliding_window=64
    )

    assert spec.sliding_windows == (64, None)


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, LinearScaling(2.0)),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 3.0}}, DynamicScaling(3.0, 4096)),
        ({"rope_scaling": {"rope_type": "llama3", **LLAMA3}}, Llama3Scaling(8.0, 1.0, 4.0, 8192)),
        ({"rope_parameters": {"rope_type": "llama3", **LLAMA3}}, Llama3Scaling(8.0, 1.0, 4.0, 8192)),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, YarnScaling(4.0, 4096)),
        ({"rope_scaling": None}, None),
        ({"rope_parameters": {"rope_type": "default"}}, None),
    ],
)
def test_scaling_is_read_in_the_old_and_the_new_style(rope: dict[str, Any], expected: object) -> None:
    assert spec_of("llama", max_position_embeddings=4096, **rope).rope.scaling == expected


def test_theta_stands_beside_the_scaling_or_in_it() -> None:
    old = spec_of("llama", rope_theta=5e5, rope_scaling={"rope_type": "linear", "factor": 2})
    new = spec_of("llama", rope_parameters={"rope_theta": 5e5, "rope_type": "linear", "factor": 2})

    assert old.rope == new.rope
    assert new.rope.theta == 5e5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"hidden_act": "relu"},
            "config.json: hidden_act is 'relu'; it is not supported; supported are silu",
        ),
        ({"rope_scaling": {"type": "longrope", "factor": 2}}, "type is 'longrope'; it is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling: factor is missing; it must be a positive"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'; it must be an object"),
        ({"rope_parameters": {"full_attention": {}, "rope_theta": 1e4}}, "must be the same for all layers"),
        ({"hidden_size": "big"}, "hidden_size is 'big'; it must be a positive integer"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True; it must be a positive integer"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0; it must be a positive number"),
        ({"attention_bias": "no"}, "attention_bias is 'no'; it must be true or false"),
        ({"num_key_value_heads": 5}, "num_key_value_heads is 5; it must divide the 32 query heads"),
        ({"head_dim": 63}, "head_dim is 63; it must rotate an even number"),
    ],
)
def test_what_a_spec_cannot_say_is_refused_by_key_and_value(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as refused:
        spec_of("llama", **values)

    assert message in str(refused.value)


@pytest.mark.parametrize("kinds", [["chunked_attention"], ["full_attention"] * 2, 5])
def test_layer_types_of_another_kind_or_number_are_refused(kinds: object) -> None:
    with pytest.raises(ModelError, match="must name full_attention or sliding_attention for 1 layers"):
        spec_of("qwen2", num_hidden_layers=1, layer_types=kinds)


def test_sliding_layers_without_a_window_are_refused() -> None:
    with pytest.raises(ModelError, match="needs use_sliding_window and sliding_window"):
        spec_of("qwen2", num_hidden_layers=1, layer_types=["sliding_attention"])


def test_an_unsupported_architecture_is_named_beside_the_supported_ones() -> None:
    config = Config("config.json", {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"})

    with pytest.raises(
        ModelError, match="GPT2LMHeadModel is not supported; supported are LlamaForCausalLM, "
    ):
        family_of_hugging_face(config)


def test_an_encoder_of_a_known_model_type_is_refused() -> None:
    config = Config(
        "config.json", {"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"}
    )

    with pytest.raises(ModelError, match="LlamaForSequenceClassification is not supported"):
        family_of_hugging_face(config)


def test_an_unsupported_gguf_architecture_is_named_beside_the_supported_ones() -> None:
    with pytest.raises(ModelError, match="architecture mamba is not supported; supported are llama, "):
        family_of_gguf("mamba", "x.gguf")
