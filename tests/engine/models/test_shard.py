"""The ranks' parts of a decoder's weights make the whole, from either format."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from hypothesis import given
from hypothesis import strategies as st

from octavo.engine.errors import ConfigError
from octavo.engine.models.files import ModelFiles
from octavo.engine.models.shard import Shard, check_divides, cut_evenly, divides
from octavo.engine.models.source import open_model
from octavo.engine.models.spec import DecoderSpec, RopeSpec
from tests.conftest import TinyModel

from .conftest import TinyGGUF

SPEC = DecoderSpec(
    family="llama",
    vocab_size=384,
    hidden_size=64,
    intermediate_size=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    norm_eps=1e-5,
    rope=RopeSpec(1e4, 16),
    max_position=512,
    tied_embeddings=False,
)


def parts(files: ModelFiles, size: int) -> list[dict[str, np.ndarray]]:
    shards = [Shard.of(files.spec, rank, size) for rank in range(size)]
    found = [{w.name: w.data.copy() for w in files.weights(shard=shard)} for shard in shards]
    for shard, weights in zip(shards, found, strict=True):
        assert {name: data.shape for name, data in weights.items()} == shard.spec.weight_shapes()
    return found


def assert_whole(files: ModelFiles, size: int) -> None:
    """Joined along the side that is cut, biases of sums added up, key-value heads that are shared once."""
    ranks = parts(files, size)
    for weight in files.weights():
        name, whole = weight.name, weight.data
        pieces = [rank[name] for rank in ranks]
        kind = name.removesuffix(".bias").rpartition(".")[2]
        if kind in ("o", "down"):
            joined = sum(pieces) if name.endswith(".bias") else np.concatenate(pieces, axis=1)
        elif kind in ("k", "v"):
            joined = np.concatenate(pieces[:: max(size // files.spec.num_kv_heads, 1)])
        elif kind in ("q", "gate", "up", "embedding", "output"):
            joined = np.concatenate(pieces)
        else:
            assert all(np.array_equal(piece, whole) for piece in pieces)
            continue
        np.testing.assert_array_equal(joined, whole, err_msg=name)


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, biases everywhere": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
    "sizes that nothing divides": ("llama", {"vocab_size": 389, "intermediate_size": 125}),
}


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize(("family", "overrides"), FAMILIES.values(), ids=FAMILIES.keys())
def test_parts_out_of_safetensors_make_the_whole(
    tiny_model: TinyModel, family: str, overrides: dict[str, Any], size: int
) -> None:
    assert_whole(open_model(str(tiny_model(family, **overrides))), size)


def test_parts_out_of_safetensors_are_read_where_they_lie(tiny_model: TinyModel) -> None:
    """Views of the mapped file: what another rank has is never read."""
    files = open_model(str(tiny_model("llama")))
    for weight in files.weights(shard=Shard.of(files.spec, 1, 2)):
        assert not weight.data.flags.owndata, weight.name


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.Q8_0, Kind.Q4_1])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_parts_out_of_gguf_make_the_whole(tiny_gguf: TinyGGUF, family: str, kind: Kind, size: int) -> None:
    assert_whole(open_model(str(tiny_gguf(family, kind))), size)


def test_columns_may_be_cut_inside_of_a_block(tiny_gguf: TinyGGUF) -> None:
    """Four ranks have 16 columns of o each; a block has 32."""
    files = open_model(str(tiny_gguf("llama", Kind.Q8_0)))
    [whole] = [w.data for w in files.weights() if w.name == "layers.0.o"]
    for rank, weights in enumerate(parts(files, 4)):
        np.testing.assert_array_equal(weights["layers.0.o"], whole[:, 16 * rank : 16 * (rank + 1)])


def test_blocks_are_given_as_they_are_where_none_is_cut(tiny_gguf: TinyGGUF) -> None:
    files = open_model(str(tiny_gguf("llama", Kind.Q8_0)))
    shards = [Shard.of(files.spec, rank, 2) for rank in range(2)]
    whole = {w.name: w for w in files.weights(as_stored=files.ggml_types())}
    halves = [{w.name: w for w in files.weights(files.ggml_types(), shard)} for shard in shards]
    for name, axis in (("layers.1.v", 0), ("layers.1.down", 1)):
        assert halves[0][name].ggml_type == Kind.Q8_0
        joined = np.concatenate([half[name].data for half in halves], axis=axis)
        np.testing.assert_array_equal(joined, whole[name].data)


@given(st.integers(1, 5000), st.integers(1, 16))
def test_even_parts_are_neighbours_that_cover_all(total: int, size: int) -> None:
    bounds = cut_evenly(total, size)
    assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
    assert bounds[-1][1] == total
    lengths = [stop - start for start, stop in bounds]
    assert max(lengths) - min(lengths) <= 32
    if total % 32 == 0 and total // 32 >= size:
        assert all(start % 32 == 0 for start, _ in bounds)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 16))
def test_every_query_head_finds_its_key_value_head(kv_heads: int, group: int, size: int) -> None:
    spec = replace(SPEC, num_heads=kv_heads * group, num_kv_heads=kv_heads)
    if not divides(spec, size):
        return
    for rank in range(size):
        shard = Shard.of(spec, rank, size)
        first_query, first_key = (shard.bounds[what][0] // spec.head_dim for what in ("queries", "keys"))
        own_group = shard.spec.num_heads // shard.spec.num_kv_heads
        for head in range(shard.spec.num_heads):
            assert first_key + head // own_group == (first_query + head) // group


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, r"must be at least 1 \(got 0\)"),
        (3, r"must divide the 4 query heads of tiny; possible are 1, 2, 4 \(got 3\)"),
        (8, r"must divide the 4 query heads of tiny; possible are 1, 2, 4 \(got 8\)"),
    ],
)
def test_what_does_not_divide_the_heads_is_refused(size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^tensor_parallel_size: {message}"):
        check_divides(SPEC, size, "tiny")


def test_key_value_heads_are_divided_or_shared() -> None:
    odd = replace(SPEC, num_heads=12, num_kv_heads=6)
    rule = r"must divide the 6 key-value heads of tiny, or be a multiple of them; possible are 1, 2, 3, 6, 12"
    with pytest.raises(ConfigError, match=rule):
        check_divides(odd, 4, "tiny")
