"""A checkpoint's weights in the form that the native kernels compute with, in one piece of memory."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np

from octavo.engine.runners.native.forms import cuts_between_blocks
from octavo.engine.runners.native.layout import Matrix, Part, matrices, vectors
from octavo.kernels.cpu.library import SOURCE_TYPES, Form, Linear, library
from octavo.kernels.cpu.quantized import GGML_SOURCE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from octavo.engine.models.files import ModelFiles
    from octavo.engine.models.shard import Shard
    from octavo.engine.models.spec import Weight

ALIGNMENT = 64
PANEL = 32


class PackedWeights:
    """Every matrix and vector of a rank's decoder, at fixed offsets of one array of bytes.

    num_bytes: of that array. forms: of each matrix, by name.
    """

    def __init__(self, shard: Shard, forms: Mapping[str, Form]) -> None:
        self.forms = forms
        self._shard = shard
        spec = shard.spec
        self._matrices = {matrix.name: matrix for matrix in matrices(spec)}
        self._places: dict[str, int] = {}
        size = 0
        for matrix in self._matrices.values():
            self._places[matrix.name] = size
            size += _aligned(library().octavo_linear_bytes(forms[matrix.name], matrix.n, matrix.k))
            if matrix.has_bias:
                self._places[matrix.name + ".bias"] = size
                size += _aligned(4 * _padded(matrix.n))
        self._vectors = vectors(spec)
        for name, length in self._vectors.items():
            self._places[name] = size
            size += _aligned(4 * length)
        self.num_bytes = size
        self._data = np.empty(0, np.uint8)

    def fill(self, data: np.ndarray, files: ModelFiles, pool: int, on_weight: Callable[[str], None]) -> None:
        """Packs all weights into `data`, uint8 [num_bytes] of zeros."""
        self._data = data
        parts = {part.weight: (matrix, part) for matrix in self._matrices.values() for part in matrix.parts}
        blocks = {
            name
            for name, kind in files.ggml_types().items()
            if name in parts
            and self._is_quantized(parts[name][0])
            and cuts_between_blocks(self._shard, name, kind)
        }
        for weight in files.weights(as_stored=blocks, shard=self._shard):
            if weight.name in parts:
                self._pack(*parts[weight.name], weight, pool)
            elif weight.name.endswith(".bias"):
                matrix, part = parts[weight.name.removesuffix(".bias")]
                columns = [part.column(row) for row in range(len(weight.data))]
                self._floats(matrix.name + ".bias", _padded(matrix.n))[columns] = _as_float32(weight)
            else:
                self._floats(weight.name, self._vectors[weight.name])[:] = _as_float32(weight)
            on_weight(weight.name)

    def use(self, data: np.ndarray) -> None:
        """Takes `data` that has been filled before, perhaps by another process."""
        self._data = data

    def linear(self, name: str) -> Linear:
        """What the decoder is told of a matrix."""
        matrix = self._matrices[name]
        bias = self.address(name + ".bias") if matrix.has_bias else None
        return Linear(self.forms[name], matrix.n, matrix.k, self.address(name), bias)

    def address(self, name: str) -> int | None:
        """Of a vector or matrix in memory; None for one that this decoder does not have."""
        place = self._places.get(name)
        return None if place is None else self._data.ctypes.data + place

    def _pack(self, matrix: Matrix, part: Part, weight: Weight, pool: int) -> None:
        source = np.ascontiguousarray(weight.data)
        into = Linear(self.forms[matrix.name], matrix.n, matrix.k, self.address(matrix.name), None)
        library().octavo_pack(
            pool,
            ctypes.byref(into),
            part.first,
            part.run,
            part.jump,
            source.ctypes.data,
            SOURCE_TYPES[weight.dtype] if weight.ggml_type is None else GGML_SOURCE + weight.ggml_type,
            len(source),
        )

    def _is_quantized(self, matrix: Matrix) -> bool:
        return self.forms[matrix.name] not in (Form.F32, Form.BF16)

    def _floats(self, name: str, length: int) -> np.ndarray:
        place = self._places[name]
        return self._data[place : place + 4 * length].view(np.float32)


def _as_float32(weight: Weight) -> np.ndarray:
    if weight.dtype == "bfloat16":
        return (weight.data.astype(np.uint32) << 16).view(np.float32)
    return weight.data.astype(np.float32)


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def _padded(n: int) -> int:
    return -(-n // PANEL) * PANEL
