"""What GGUF metadata says of a decoder, in the words of config.json, so that families read only those."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from octavo.engine.errors import ModelError
from octavo.engine.models.config import Config
from octavo.engine.models.ggml import GGMLType
from octavo.engine.models.spec import DecoderSpec, FrequencyFactors

if TYPE_CHECKING:
    from octavo.engine.models.families import Family
    from octavo.engine.models.gguf import GGUFFile

KEYS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    "rope.freq_base": "rope_theta",
}
"""Metadata keys, after the architecture's name, and what config.json calls them."""
OPTIONAL = {"head_dim", "rope_theta", "num_key_value_heads"}
SCALING_KEYS = {
    "type": "rope_type",
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
"""The same for keys after `rope.scaling.`."""


def spec_of_gguf(file: GGUFFile, family: Family) -> DecoderSpec:
    """The decoder of an opened file. Raises ModelError for metadata that is missing or not supported."""
    architecture, source = f"{family.gguf_architecture}.", str(file.path)
    stated = {
        key.removeprefix(architecture): value
        for key, value in file.metadata.items()
        if key.startswith(architecture)
    }
    # What is not optional must be in the file: a default of the family's would be another model's value.
    values: dict[str, Any] = dict.fromkeys(set(KEYS.values()) - OPTIONAL)
    values |= {theirs: stated[key] for key, theirs in KEYS.items() if key in stated}
    values.setdefault("head_dim", None)
    if "token_embd.weight" in file.tensors:
        values["vocab_size"] = file.tensors["token_embd.weight"].shape[0]
    values["tie_word_embeddings"] = "output.weight" not in file.tensors
    values["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
    values["mlp_bias"] = "blk.0.ffn_gate.bias" in file.tensors
    if stated.get("rope.scaling.type", "none") != "none":
        prefixed = {f"rope.scaling.{key}": theirs for key, theirs in SCALING_KEYS.items()}
        values["rope_scaling"] = {theirs: stated[key] for key, theirs in prefixed.items() if key in stated}
    names = {theirs: architecture + key for key, theirs in KEYS.items()}
    spec = family.spec(Config(source, values, keys=names))
    _refuse_unsupported(stated, spec, f"{source}: {architecture}")
    return _with_frequency_factors(spec, file)


def _refuse_unsupported(stated: dict[str, Any], spec: DecoderSpec, prefix: str) -> None:
    """What changes the result and no DecoderSpec of these families can say."""
    neutral = {
        "expert_count": 0,
        "attention.value_length": spec.head_dim,
        "attention.sliding_window": 0,
        "attention.causal": True,
        "rope.dimension_count": spec.head_dim,
        "rope.scale_linear": 1,
        "rope.scaling.attn_factor": 1,
        "rope.scaling.yarn_attn_factor": 1,
        "rope.scaling.yarn_ext_factor": 1,
    }
    for key, value in neutral.items():
        if stated.get(key, value) != value:
            raise ModelError(f"{prefix}{key} is {stated[key]}; only {value} is supported")


def _with_frequency_factors(spec: DecoderSpec, file: GGUFFile) -> DecoderSpec:
    """The converter writes Llama 3's scaling as a tensor of divisors."""
    tensor = file.tensors.get("rope_freqs.weight")
    if tensor is None:
        return spec
    if spec.rope.scaling is not None:
        raise ModelError(f"{file.path}: has both rope_freqs.weight and rope.scaling.type")
    if tensor.kind != GGMLType.F32 or tensor.shape != (spec.rope.rotary_dim // 2,):
        raise ModelError(f"{file.path}: rope_freqs.weight must be {spec.rope.rotary_dim // 2} F32 values")
    factors = FrequencyFactors(tuple(map(float, tensor.data.view(np.float32))))
    return replace(spec, rope=replace(spec.rope, scaling=factors))
