"""GGUF files made from the tiny models, as llama.cpp's converter makes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

import gguf
import pytest
from gguf import GGMLQuantizationType as Kind
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from tests.conftest import TinyModel

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}


class TinyGGUF(Protocol):
    def __call__(
        self, family: str, kind: Kind = ..., metadata: dict[str, Any] = ..., **config_overrides: Any
    ) -> Path: ...


@pytest.fixture
def tiny_gguf(tiny_model: TinyModel, tmp_path: Path) -> TinyGGUF:
    """`tiny_gguf("llama", Kind.Q4_0)`: its matrices of that type. metadata: more integer keys."""

    def make(
        family: str, kind: Kind = Kind.F32, metadata: dict[str, Any] | None = None, **config_overrides: Any
    ) -> Path:
        path = tmp_path / f"tiny-{family}-{kind.name}.gguf"
        convert(tiny_model(family, **config_overrides), family, path, kind, metadata or {})
        return path

    return make


def convert(folder: Path, family: str, path: Path, kind: Kind, metadata: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, family)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    add_tokenizer(writer, folder)
    for key, value in metadata.items():
        writer.add_uint32(f"{family}.{key}", value)
    names = gguf.get_tensor_name_map(ARCHITECTURES[family], config["num_hidden_layers"])
    for hf_name, values in load_file(folder / "model.safetensors").items():
        name = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        if family == "llama" and ".attn_q." in name:
            values = permute(values, config["num_attention_heads"])
        if family == "llama" and ".attn_k." in name:
            values = permute(values, config["num_key_value_heads"])
        stored = kind if values.ndim == 2 else Kind.F32
        writer.add_tensor(name, gguf.quants.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def permute(weights: np.ndarray, num_heads: int) -> np.ndarray:
    """`LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py."""
    halves = weights.reshape(num_heads, 2, weights.shape[0] // num_heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    special = {token["content"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    )
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
