"""Opening GGUF models: every quantisation, every family, against the gguf package and Transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from octavo.engine.errors import ModelError
from octavo.engine.models.dequantize import can_dequantize, dequantize
from octavo.engine.models.ggml import GGMLType
from octavo.engine.models.names import HUGGING_FACE, checkpoint_name
from octavo.engine.models.source import open_model
from octavo.engine.models.spec import FrequencyFactors, LinearScaling, YarnScaling

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import TinyModel
    from tests.engine.models.conftest import TinyGGUF

QUANTISED = [kind for kind in GGMLType if can_dequantize(kind)]


def error_of(path: Path) -> str:
    with pytest.raises(ModelError) as raised:
        open_model(str(path))
    return str(raised.value)


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_every_quantisation_is_bit_equal_to_the_gguf_package(kind: GGMLType) -> None:
    """Random bytes stand for blocks, so that types which the package cannot write are covered too."""
    block_bytes = GGML_QUANT_SIZES[Kind(kind)][1]
    blocks = np.random.default_rng(0).integers(256, size=(32, 9 * block_bytes), dtype=np.uint8)

    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(blocks, Kind(kind))
        values = dequantize(blocks.reshape(-1), kind)

    np.testing.assert_array_equal(values.view(np.uint32), expected.reshape(-1).view(np.uint32))


def test_pieces_join_where_a_tensor_is_larger_than_one() -> None:
    values = np.random.default_rng(0).standard_normal((3, 40_000), np.float32)
    blocks = gguf.quants.quantize(values, Kind.Q8_0)

    joined = dequantize(blocks.reshape(-1), GGMLType.Q8_0)

    np.testing.assert_array_equal(joined, gguf.quants.dequantize(blocks, Kind.Q8_0).reshape(-1))


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q8_0])
def test_a_model_has_the_weights_that_were_stored(
    tiny_gguf: TinyGGUF, tiny_model: TinyModel, kind: Kind
) -> None:
    original = load_file(tiny_model("llama") / "model.safetensors")
    model = open_model(str(tiny_gguf("llama", kind)))

    weights = {weight.name: weight for weight in model.weights()}

    assert model.dtype == {"F16": "float16", "BF16": "bfloat16"}.get(kind.name, "float32")
    assert {name: weight.data.shape for name, weight in weights.items()} == model.spec.weight_shapes()
    for name, weight in weights.items():
        stored = original[checkpoint_name(name, HUGGING_FACE)]
        if weight.dtype == "bfloat16":
            values = (weight.data.astype(np.uint32) << 16).view(np.float32)
        else:
            values = weight.data.astype(np.float32)
        if stored.ndim == 2 and kind != Kind.F32:
            stored = gguf.quants.dequantize(gguf.quants.quantize(stored, kind), kind)
        np.testing.assert_array_equal(values, stored, err_msg=name)


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("qwen3", {"tie_word_embeddings": True}),
    ],
)
def test_a_converted_model_is_the_one_it_was_converted_from(
    tiny_gguf: TinyGGUF, tiny_model: TinyModel, family: str, overrides: dict[str, Any]
) -> None:
    original = open_model(str(tiny_model(family, **overrides)))
    converted = open_model(str(tiny_gguf(family, **overrides)))

    theirs = {weight.name: weight.data for weight in original.weights()}
    ours = {weight.name: weight.data for weight in converted.weights()}

    assert converted.spec.tied_embeddings == original.spec.tied_embeddings
    assert converted.spec.rope == original.spec.rope
    assert converted.eos_token_ids == original.eos_token_ids
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name], err_msg=name)


def test_weights_equal_those_that_transformers_reads_from_the_file(tiny_gguf: TinyGGUF) -> None:
    path = tiny_gguf("llama", Kind.Q8_0)
    oracle = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).state_dict()

    for weight in open_model(str(path)).weights():
        expected = oracle[checkpoint_name(weight.name, HUGGING_FACE)].float().numpy()
        np.testing.assert_array_equal(weight.data, expected, err_msg=weight.name)


def test_the_demo_model_is_described_by_its_metadata(smollm2_path: Path) -> None:
    model = open_model(str(smollm2_path))

    assert model.name == "SmolLM2-135M-Instruct.Q4_1"
    assert (model.spec.num_layers, model.spec.num_heads, model.spec.num_kv_heads) == (30, 9, 3)
    assert (model.spec.vocab_size, model.spec.max_position) == (49152, 8192)
    assert (model.spec.rope.theta, model.spec.tied_embeddings, model.eos_token_ids) == (1e5, True, (2,))


def test_weights_may_be_read_twice_and_left_unread(tiny_gguf: TinyGGUF) -> None:
    model = open_model(str(tiny_gguf("llama", Kind.Q8_0)))

    next(model.weights())

    assert len(list(model.weights())) == len(model.spec.weight_shapes())


def edited(path: Path, change: dict[str, Any], tensors: dict[str, np.ndarray] | None = None) -> Path:
    """The file with changed or added metadata and added tensors."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(path.with_name("edited.gguf"), reader.fields["general.architecture"].contents())
    kept = [key for key in reader.fields if not key.startswith("GGUF.") and key != "general.architecture"]
    for key in kept:
        field = reader.fields[key]
        if key not in change:
            element = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], element)
    for key, value in change.items():
        if value is not None:
            writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.with_name("edited.gguf")


def test_rope_freqs_become_frequency_factors(tiny_gguf: TinyGGUF) -> None:
    factors = np.linspace(1, 8, 8, dtype=np.float32)
    plain = tiny_gguf("llama")

    model = open_model(str(edited(plain, {}, {"rope_freqs.weight": factors})))

    assert model.spec.rope.scaling == FrequencyFactors(tuple(map(float, factors)))
    too_few = edited(plain, {}, {"rope_freqs.weight": factors[:4]})
    assert "rope_freqs.weight must be 8 F32 values" in error_of(too_few)


def test_scaling_metadata_is_read(tiny_gguf: TinyGGUF) -> None:
    plain = tiny_gguf("llama")
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    assert open_model(str(edited(plain, scaling))).spec.rope.scaling == LinearScaling(2.0)

    yarn = {**scaling, "llama.rope.scaling.type": "yarn", "llama.rope.scaling.original_context_length": 128}
    assert open_model(str(edited(plain, yarn))).spec.rope.scaling == YarnScaling(2.0, 128)


def test_end_of_turn_tokens_end_a_sequence_too(tiny_gguf: TinyGGUF) -> None:
    ends = {"tokenizer.ggml.eot_token_id": 1, "tokenizer.ggml.eom_token_id": 2}

    assert open_model(str(edited(tiny_gguf("llama"), ends))).eos_token_ids == (2, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"llama.embedding_length": None},
            "llama.embedding_length is missing; it must be a positive integer",
        ),
        ({"llama.embedding_length": 32}, "token_embd.weight has shape [384, 64], the configuration says"),
        ({"llama.block_count": 3}, "missing weights: blk.2.attn_norm.weight, blk.2.ffn_norm.weight, "),
        ({"llama.expert_count": 8}, "llama.expert_count is 8; only 0 is supported"),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 2.0,
                "llama.rope.scaling.attn_factor": 2.0,
            },
            "attn_factor is 2.0; only 1",
        ),
        ({"split.count": 3}, "one of 3 parts; merge them"),
        ({"llama.rope.dimension_count": 8}, "llama.rope.dimension_count is 8; only 16 is supported"),
        ({"llama.rope.scaling.type": "longrope"}, "rope_type is 'longrope'; it is not supported"),
    ],
)
def test_what_is_missing_or_unsupported_is_named(
    tiny_gguf: TinyGGUF, change: dict[str, Any], message: str
) -> None:
    path = edited(tiny_gguf("llama"), change)

    assert error_of(path).startswith(f"{path}: ")
    assert message in error_of(path)


def test_an_unsupported_architecture_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "mamba.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    assert "architecture mamba is not supported" in error_of(tmp_path / "mamba.gguf")
