"""Reading GGUF files: metadata and the table of tensors.

`gguf.GGUFReader` keeps every string of the vocabulary as NumPy arrays and takes 3.4 s to open the 98 MB
demo model; this takes 0.02 s, and decodes texts only when they are asked for. Format: ggml's docs/gguf.md,
versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from octavo.engine.errors import ModelError
from octavo.engine.models.ggml import GGMLType

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAGIC = b"GGUF"
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""struct's format of each scalar value type."""
STRING, ARRAY = 8, 9
DEFAULT_ALIGNMENT = 32
LENGTH = struct.Struct("<Q")
"""Stands before each text."""


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One tensor. shape: slowest dimension first, as in NumPy. data: uint8 [num_bytes], a view."""

    name: str
    kind: GGMLType
    shape: tuple[int, ...]
    data: np.ndarray


class GGUFStrings(Sequence[str]):
    """An array of texts, left in the file. Raises UnicodeDecodeError where one is no UTF-8."""

    def __init__(self, data: mmap.mmap, starts: list[int], end: int) -> None:
        """starts: of each text's length, 8 bytes before it. end: of the last text."""
        self._data = data
        self._starts = starts
        self._end = end

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return list(self)[index]
        start = self._starts[index]
        (length,) = LENGTH.unpack_from(self._data, start)
        return self._data[start + LENGTH.size : start + LENGTH.size + length].decode()

    def __iter__(self) -> Iterator[str]:
        data = self._data
        ends = [*self._starts[1:], self._end]
        return (data[start + 8 : end].decode() for start, end in zip(self._starts, ends, strict=True))


class GGUFFile:
    """An opened file.

    metadata: by key; arrays come as lists, those of texts as `GGUFStrings`.
    tensors: by name, mapped, not read.
    """

    def __init__(self, path: Path) -> None:
        """Raises ModelError for a file that is no GGUF file, of another version, cut off or corrupt."""
        self.path = path
        self._position = 0
        with path.open("rb") as stream:
            if stream.read(4) != MAGIC:
                raise ModelError(f"{path}: no GGUF file: it does not start with {MAGIC.decode()}")
            self._data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            self._read_header()
        except (struct.error, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise ModelError(
                f"{path}: cut off or corrupt: byte {self._position} of {len(self._data)}: {error}"
            ) from error

    def _read_header(self) -> None:
        self._position = len(MAGIC)
        version = self._scalar("I")
        if version not in (2, 3):
            raise ModelError(f"{self.path}: GGUF version {version} is not supported; supported are 2 and 3")
        num_tensors, num_keys = self._scalar("Q"), self._scalar("Q")
        self.metadata = {self._string(): self._value(self._scalar("I")) for _ in range(num_keys)}
        entries = [self._tensor_entry() for _ in range(num_tensors)]
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        start = -(-self._position // alignment) * alignment
        self.tensors = {entry[0]: self._tensor(start, *entry) for entry in entries}

    def _scalar(self, code: str) -> Any:
        layout = struct.Struct("<" + code)
        (value,) = layout.unpack_from(self._data, self._position)
        self._position += layout.size
        return value

    def _string(self) -> str:
        return self._strings(1)[0]

    def _strings(self, count: int) -> GGUFStrings:
        """The loop that opening a file spends its time in: 100,000 tokens and merges for the demo model."""
        data, position, length_at = self._data, self._position, LENGTH.unpack_from
        starts = []
        for _ in range(count):
            starts.append(position)
            position += 8 + length_at(data, position)[0]
        if position > len(data):
            raise struct.error(f"a string reaches to byte {position}")
        self._position = position
        return GGUFStrings(data, starts, position)

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._scalar(SCALARS[kind])
        element, count = self._scalar("I"), self._scalar("Q")
        if element == STRING:
            return self._strings(count)
        if element == ARRAY:
            return [self._value(ARRAY) for _ in range(count)]
        layout = f"<{count}{SCALARS[element]}"
        values = struct.unpack_from(layout, self._data, self._position)
        self._position += struct.calcsize(layout)
        return list(values)

    def _tensor_entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name, num_dims = self._string(), self._scalar("I")
        dims = [self._scalar("Q") for _ in range(num_dims)]
        return name, tuple(reversed(dims)), self._scalar("I"), self._scalar("Q")

    def _tensor(self, start: int, name: str, shape: tuple[int, ...], kind: int, offset: int) -> GGUFTensor:
        try:
            stored = GGMLType(kind)
        except ValueError:
            raise ModelError(f"{self.path}: tensor {name} is of the unknown type {kind}") from None
        num_bytes = math.prod(shape) // stored.block_size * stored.block_bytes
        first = start + offset
        if first + num_bytes > len(self._data):
            raise ModelError(
                f"{self.path}: cut off: tensor {name} reaches to byte {first + num_bytes}, "
                f"the file has {len(self._data)}"
            )
        data = np.frombuffer(self._data, np.uint8, num_bytes, first)
        return GGUFTensor(name, stored, shape, data)
