"""The GGUF header, against what the gguf package writes and reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from octavo.engine.errors import ModelError
from octavo.engine.models.dequantize import can_dequantize
from octavo.engine.models.ggml import GGMLType
from octavo.engine.models.gguf import GGUFFile, GGUFStrings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.engine.models.conftest import TinyGGUF


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A file with a value of every type and two tensors."""
    writer = gguf.GGUFWriter(tmp_path / "written.gguf", "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -100)
    writer.add_uint16("u16", 60_000)
    writer.add_int16("i16", -30_000)
    writer.add_uint32("u32", 4_000_000_000)
    writer.add_int32("i32", -2_000_000_000)
    writer.add_uint64("u64", 2**63)
    writer.add_int64("i64", -(2**62))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("bool", True)
    writer.add_string("string", "Grüße, 世界")
    writer.add_array("strings", ["a", "", "世"])
    writer.add_array("ints", [1, -2, 3])
    writer.add_array("floats", [0.5, 1.5])
    writer.add_tensor("matrix", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("vector", np.arange(5, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "written.gguf"


def test_values_of_every_type_are_read(written: Path) -> None:
    metadata = GGUFFile(written).metadata
    assert metadata | {"strings": list(metadata["strings"])} == {
        "general.architecture": "llama",
        "u8": 200,
        "i8": -100,
        "u16": 60_000,
        "i16": -30_000,
        "u32": 4_000_000_000,
        "i32": -2_000_000_000,
        "u64": 2**63,
        "i64": -(2**62),
        "f32": 0.5,
        "f64": 0.1,
        "bool": True,
        "string": "Grüße, 世界",
        "strings": ["a", "", "世"],
        "ints": [1, -2, 3],
        "floats": [0.5, 1.5],
    }


def test_texts_are_read_one_by_one_or_all(written: Path) -> None:
    texts = GGUFFile(written).metadata["strings"]

    assert (len(texts), texts[0], texts[-1], texts[1:]) == (3, "a", "世", ["", "世"])
    with pytest.raises(IndexError):
        texts[3]


def test_types_and_blocks_are_those_of_the_gguf_package() -> None:
    ours = {kind.name: (int(kind), kind.block_size, kind.block_bytes) for kind in GGMLType}
    assert ours == {kind.name: (int(kind), *gguf.GGML_QUANT_SIZES[kind]) for kind in Kind}
    assert all(can_dequantize(kind) == hasattr(gguf.quants, kind.name) for kind in GGMLType)


def test_tensors_are_mapped_with_numpys_order_of_dimensions(written: Path) -> None:
    matrix = GGUFFile(written).tensors["matrix"]

    assert (matrix.kind, matrix.shape) == (Kind.F32, (2, 3))
    np.testing.assert_array_equal(matrix.data.view(np.float32), np.arange(6))
    assert not matrix.data.flags.owndata


def test_a_models_file_is_read_as_the_gguf_package_reads_it(tiny_gguf: TinyGGUF) -> None:
    path = tiny_gguf("llama", Kind.Q8_0)
    oracle = gguf.GGUFReader(path)

    file = GGUFFile(path)

    for key, field in oracle.fields.items():
        if not key.startswith("GGUF."):
            read = file.metadata[key]
            assert (list(read) if isinstance(read, GGUFStrings) else read) == field.contents()
    assert list(file.tensors) == [tensor.name for tensor in oracle.tensors]
    for tensor in oracle.tensors:
        np.testing.assert_array_equal(file.tensors[tensor.name].data, tensor.data.view(np.uint8).ravel())


def test_a_file_cut_off_anywhere_is_noticed(written: Path) -> None:
    whole = written.read_bytes()
    for size in range(4, len(whole) - 32, 7):  # up to the padding of the last tensor
        written.write_bytes(whole[:size])

        with pytest.raises(ModelError, match=f"{written.name}: cut off"):
            GGUFFile(written)


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04 a zip file"])
def test_another_format_is_no_gguf_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(content)

    with pytest.raises(ModelError, match=r"x\.gguf: no GGUF file: it does not start with GGUF"):
        GGUFFile(tmp_path / "x.gguf")


@pytest.mark.parametrize("version", [1, 4, 3 << 24])
def test_another_version_is_refused(written: Path, version: int) -> None:
    content = bytearray(written.read_bytes())
    content[4:8] = version.to_bytes(4, "little")
    written.write_bytes(content)

    with pytest.raises(ModelError, match=f"GGUF version {version} is not supported; supported are 2 and 3"):
        GGUFFile(written)


def test_random_damage_is_never_another_error(written: Path) -> None:
    whole, random = written.read_bytes(), np.random.default_rng(0)
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[random.integers(8, len(whole))] = random.integers(256)
        written.write_bytes(damaged)
        try:
            GGUFFile(written)
        except ModelError as error:
            assert str(error).startswith(str(written))  # noqa: PT017
