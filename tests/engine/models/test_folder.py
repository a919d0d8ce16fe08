"""Opening Hugging Face folders: weights as Transformers reads them, and what is wrong with a damaged one."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from octavo.engine.errors import ModelError
from octavo.engine.models.names import HUGGING_FACE, checkpoint_name
from octavo.engine.models.source import open_model

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import TinyModel


@pytest.fixture
def folder(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """A copy of a tiny Llama that a test may damage."""
    return shutil.copytree(tiny_model("llama"), tmp_path / "damaged")


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def error_of(folder: Path) -> str:
    with pytest.raises(ModelError) as raised:
        open_model(str(folder))
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_weights_equal_those_that_transformers_loads(tiny_model: TinyModel, family: str, tied: bool) -> None:
    folder = tiny_model(family, tie_word_embeddings=tied)
    oracle = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    model = open_model(str(folder))

    weights = {weight.name: weight for weight in model.weights()}

    assert {name: weight.data.shape for name, weight in weights.items()} == model.spec.weight_shapes()
    for name, weight in weights.items():
        np.testing.assert_array_equal(weight.data, oracle[checkpoint_name(name, HUGGING_FACE)].numpy())


def test_biases_are_loaded(tiny_model: TinyModel) -> None:
    model = open_model(str(tiny_model("llama", attention_bias=True, mlp_bias=True)))

    biases = [weight.name for weight in model.weights() if weight.name.startswith("layers.1.")]

    assert [name for name in biases if name.endswith(".bias")] == [
        f"layers.1.{name}.bias" for name in ("q", "k", "v", "o", "gate", "up", "down")
    ]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_types_come_bit_by_bit(tiny_model: TinyModel, tmp_path: Path, dtype: str) -> None:
    oracle = AutoModelForCausalLM.from_pretrained(tiny_model("llama"), dtype=getattr(torch, dtype))
    oracle.save_pretrained(tmp_path)
    model = open_model(str(tmp_path))

    embedding = next(weight for weight in model.weights() if weight.name == "embedding")

    assert model.dtype == embedding.dtype == dtype
    bits = oracle.model.embed_tokens.weight.detach().view(torch.uint16).numpy()
    np.testing.assert_array_equal(embedding.data.view(np.uint16), bits)


def test_shards_are_read_as_one_checkpoint(tiny_model: TinyModel, tmp_path: Path) -> None:
    whole = tiny_model("llama")
    AutoModelForCausalLM.from_pretrained(whole).save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1

    pairs = zip(open_model(str(tmp_path)).weights(), open_model(str(whole)).weights(), strict=True)

    assert all(np.array_equal(sharded.data, single.data) for sharded, single in pairs)


def test_weights_are_views_of_the_mapped_file(tiny_model: TinyModel) -> None:
    weight = next(open_model(str(tiny_model("llama"))).weights())

    assert not weight.data.flags.owndata
    assert not weight.data.flags.writeable


def test_a_model_is_named_after_its_folder(tiny_model: TinyModel) -> None:
    folder = tiny_model("llama")

    assert open_model(f"{folder}/").name == folder.name


def test_unknown_tensors_are_ignored(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(8, np.float64)
    save_file(tensors, folder / "model.safetensors")

    assert len(list(open_model(str(folder)).weights())) == len(tensors) - 1


def test_a_missing_weight_is_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")

    assert error_of(folder) == f"{folder}: missing weights: lm_head.weight"


def test_a_weight_of_another_shape_is_named(folder: Path) -> None:
    edit(folder / "config.json", intermediate_size=96)

    assert "gate_proj.weight has shape [128, 64], the configuration says [96, 64]" in error_of(folder)


def test_a_weight_of_an_unsupported_type_is_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float64)
    save_file(tensors, folder / "model.safetensors")

    assert "model.norm.weight is of type F64; supported are F32, F16, BF16" in error_of(folder)


def test_a_quantised_checkpoint_is_refused(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "gptq"})

    assert "quantization_config is {'quant_method': 'gptq'}; it is not supported" in error_of(folder)


@pytest.mark.parametrize("size", [0, 4, 100, 100_000])
def test_a_cut_off_file_is_noticed(folder: Path, size: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])

    assert error_of(folder).startswith(f"{file}: ")
    assert "cut off" in error_of(folder)


@pytest.mark.parametrize("header", [b"{", b"[]", b'{"a": {}}', b'{"a": 1}', b"\xff\xff"])
def test_a_corrupt_header_is_noticed(folder: Path, header: bytes) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)

    assert error_of(folder).startswith(f"{file}: corrupt safetensors header")


def test_a_tensor_whose_bytes_do_not_fit_its_shape_is_noticed(folder: Path) -> None:
    header = b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}'
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))

    assert "4 bytes for F32 of shape [2]" in error_of(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    assert "model-00001-of-00002.safetensors: missing" in error_of(folder)


def test_a_corrupt_index_is_noticed(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("[]")

    assert "model.safetensors.index.json: corrupt index" in error_of(folder)


def test_a_folder_without_safetensors_says_what_to_do(folder: Path) -> None:
    (folder / "model.safetensors").unlink()

    assert "must be converted to safetensors" in error_of(folder)


@pytest.mark.parametrize(("text", "message"), [("{", "invalid JSON"), ("[]", "must hold a JSON object")])
def test_an_invalid_config_is_named(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text)

    assert error_of(folder).startswith(f"{folder / 'config.json'}: {message}")


def test_a_folder_without_a_config_is_no_model(tmp_path: Path) -> None:
    assert error_of(tmp_path) == f"{tmp_path}: no config.json in this folder, so it holds no model"

    (tmp_path / "model.gguf").touch()
    assert error_of(tmp_path).endswith("; name the .gguf file itself")


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [7, 8]}, {"eos_token_id": 5}, (7, 8)),
        ({"eos_token_id": 7}, {"eos_token_id": 5}, (7,)),
        ({"eos_token_id": None}, {"eos_token_id": 5}, (5,)),
        (None, {"eos_token_id": [5, 6]}, (5, 6)),
        (None, {"eos_token_id": None}, (2,)),
    ],
    ids=["generation list", "generation id", "no generation id", "config list", "tokenizer"],
)
def test_end_tokens_come_from_the_file_that_knows_best(
    folder: Path, generation: dict[str, Any] | None, config: dict[str, Any], expected: tuple[int, ...]
) -> None:
    edit(folder / "config.json", **config)
    if generation is None:
        (folder / "generation_config.json").unlink()
    else:
        edit(folder / "generation_config.json", **generation)

    assert open_model(str(folder)).eos_token_ids == expected
