"""Reading safetensors files without copying them.

The format is a length, a JSON header and the bytes, so that mapping a file takes a page of code; the
safetensors package has no bfloat16 for NumPy, and copies. Format: huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from octavo.engine.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from octavo.engine.models.spec import StoredType

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""

DTYPES: dict[str, tuple[StoredType, type[np.generic]]] = {
    "F32": ("float32", np.float32),
    "F16": ("float16", np.float16),
    "BF16": ("bfloat16", np.uint16),
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies. start and stop: bytes from the start of the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    def read(
        self, mapped: np.memmap[Any, Any], index: tuple[slice, ...] = ()
    ) -> tuple[StoredType, np.ndarray]:
        """The values, or those at `index`, as a read-only view of the mapped file (a copy where the file has
        them unaligned)."""
        stored, scalar = DTYPES[self.dtype]
        values = mapped[self.start : self.stop].view(np.ndarray).view(scalar).reshape(self.shape)
        return stored, np.require(values[index], requirements="A")


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Every tensor of one file. Raises ModelError for a file that is cut off or no safetensors file."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise ModelError(
                f"{file}: no safetensors file, or cut off: a header of {length} bytes in {size} bytes"
            )
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            tensors = {name: _stored(file, entry, 8 + length) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{file}: corrupt safetensors header: {error}") from error
    end = max((tensor.stop for tensor in tensors.values()), default=0)
    if end > size:
        raise ModelError(f"{file}: cut off: tensors reach to byte {end}, the file has {size}")
    return tensors


def _stored(file: Path, entry: dict[str, Any], base: int) -> StoredTensor:
    start, stop = entry["data_offsets"]
    tensor = StoredTensor(file, entry["dtype"], tuple(entry["shape"]), base + start, base + stop)
    if tensor.dtype in DTYPES:
        expected = int(np.prod(tensor.shape, dtype=np.int64)) * np.dtype(DTYPES[tensor.dtype][1]).itemsize
        if stop - start != expected or start < 0:
            raise ValueError(f"{stop - start} bytes for {tensor.dtype} of shape {list(tensor.shape)}")
    return tensor


def read_checkpoint(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a folder's checkpoint: model.safetensors, or the shards that its index names.

    Raises ModelError for a missing checkpoint or shard, and for what `read_header` refuses.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return read_header(single)
    if not index.is_file():
        raise ModelError(
            f"{folder}: no model.safetensors and no model.safetensors.index.json; "
            "other formats (pytorch_model.bin) must be converted to safetensors first"
        )
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: corrupt index: {error}") from error
    tensors: dict[str, StoredTensor] = {}
    for shard in shards:
        if not (folder / shard).is_file():
            raise ModelError(f"{folder / shard}: missing, though {index.name} names this shard")
        tensors |= read_header(folder / shard)
    return tensors
