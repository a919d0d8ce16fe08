"""A model as llama.cpp stores it: one GGUF file with configuration, tokenizer and weights."""

from __future__ import annotations

from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from octavo.engine.errors import ModelError
from octavo.engine.memory import available_cpus
from octavo.engine.models.dequantize import can_dequantize, dequantize
from octavo.engine.models.families import family_of_gguf
from octavo.engine.models.files import ModelFiles, check_shapes
from octavo.engine.models.ggml import GGMLType
from octavo.engine.models.gguf import GGUFFile, GGUFTensor
from octavo.engine.models.gguf_config import spec_of_gguf
from octavo.engine.models.names import GGUF, checkpoint_name
from octavo.engine.models.spec import StoredType, Weight

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping
    from pathlib import Path

    from octavo.engine.models.shard import Shard
    from octavo.engine.tokenizer import Tokenizer

STORED: dict[GGMLType, tuple[StoredType, type[np.generic]]] = {
    GGMLType.F32: ("float32", np.float32),
    GGMLType.F16: ("float16", np.float16),
    GGMLType.BF16: ("bfloat16", np.uint16),
}
END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")
THREADS_AHEAD = 2
"""Weights dequantised beyond those that threads work on, so that none waits for the reader."""


class GGUFModel(ModelFiles):
    """Quantised weights become float32 when they are asked for; the others are views of the file."""

    def __init__(self, path: Path, name: str) -> None:
        self._file = GGUFFile(path)
        metadata = self._file.metadata
        if metadata.get("split.count", 1) > 1:
            raise ModelError(
                f"{path}: one of {metadata['split.count']} parts; merge them with llama-gguf-split"
            )
        self._family = family_of_gguf(str(metadata.get("general.architecture")), str(path))
        self.name, self.path = name, path
        self.spec = spec_of_gguf(self._file, self._family)
        self._tensors = self._checked_tensors()
        sizes: Counter[StoredType] = Counter()
        for tensor in self._tensors.values():
            sizes[STORED[tensor.kind][0] if tensor.kind in STORED else "float32"] += tensor.data.size
        self.dtype = sizes.most_common(1)[0][0]
        packed = sum(tensor.data.size for tensor in self._tensors.values() if tensor.kind not in STORED)
        self.quantized = 2 * packed > sizes.total()

    def _checked_tensors(self) -> dict[str, GGUFTensor]:
        """The file's tensors by canonical name."""
        shapes, stored = self.spec.weight_shapes(), self._file.tensors
        theirs = {name: checkpoint_name(name, GGUF) for name in shapes}
        expected = {theirs[name]: shape for name, shape in shapes.items()}
        check_shapes(str(self._file.path), expected, {name: tensor.shape for name, tensor in stored.items()})
        for name in expected:
            kind = stored[name].kind
            if kind not in STORED and not can_dequantize(kind):
                raise ModelError(f"{self._file.path}: {name} is of type {kind.name}, which is not supported")
        return {name: stored[theirs[name]] for name in shapes}

    def ggml_types(self) -> Mapping[str, int]:
        return {name: int(tensor.kind) for name, tensor in self._tensors.items() if tensor.kind not in STORED}

    def stored_in(self) -> list[Path]:
        return [self.path]

    def weights(
        self, as_stored: Container[str] = frozenset(), shard: Shard | None = None
    ) -> Iterator[Weight]:
        threads = min(8, available_cpus())
        pending: deque[Future[Weight]] = deque()
        with ThreadPoolExecutor(threads, "dequantize") as pool:
            for item in self._tensors.items():
                pending.append(pool.submit(self._weight, *item, item[0] in as_stored, shard))
                if len(pending) > threads + THREADS_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _weight(self, name: str, tensor: GGUFTensor, as_stored: bool, shard: Shard | None) -> Weight:
        dtype: StoredType = "float32"
        index = shard.index(name) if shard is not None else ()
        data: np.ndarray
        if tensor.kind in STORED:
            dtype, scalar = STORED[tensor.kind]
            data = np.require(tensor.data.view(scalar), requirements="A").reshape(tensor.shape)[index]
        else:
            blocks, inside = _blocks_around(tensor, index)
            if as_stored:
                whole = blocks.shape[1] // tensor.kind.block_bytes * tensor.kind.block_size
                assert inside == slice(0, whole), f"{name} is cut inside of a block"
                data = blocks
            else:
                data = dequantize(blocks, tensor.kind).reshape(len(blocks), -1)[:, inside]
                data = data.reshape(data.shape[2 - len(tensor.shape) :])
        if shard is not None and shard.is_added_elsewhere(name):
            data = np.zeros_like(data)
        projection = name.removesuffix(".bias").rpartition(".")[2]
        if self._family.gguf_pairs and projection in ("q", "k"):
            data = _halves_from_pairs(data, self.spec.head_dim)
        return Weight(name, dtype, data, int(tensor.kind) if as_stored else None)

    def _load_tokenizer(self) -> Tokenizer:
        from octavo.engine.tokenizer import Tokenizer

        return Tokenizer.from_gguf(self._file.metadata, str(self._file.path))

    def _eos_token_ids(self) -> tuple[int, ...]:
        found = (self._file.metadata.get(f"tokenizer.ggml.{key}") for key in END_TOKENS)
        return tuple(token for token in found if token is not None)


def _blocks_around(tensor: GGUFTensor, index: tuple[slice, ...]) -> tuple[np.ndarray, slice]:
    """The quantised blocks that hold what `index` asks for, uint8 [rows, bytes of a row's blocks], and where
    in a row of them it lies."""
    columns = tensor.shape[-1]
    size, num_bytes = tensor.kind.block_size, tensor.kind.block_bytes
    rows, wanted = ((slice(None),) * (2 - len(tensor.shape)) + index + (slice(None),) * 2)[:2]
    start, stop, _ = wanted.indices(columns)
    first, last = start // size, -(-stop // size)
    blocks = tensor.data.reshape(-1, columns // size * num_bytes)[rows, first * num_bytes : last * num_bytes]
    return np.ascontiguousarray(blocks), slice(start - first * size, stop - first * size)


def _halves_from_pairs(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Undoes the converter's order of q and k rows, where the elements rotated together are neighbours.

    rows: [num_heads * head_dim, ...]. See `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py.
    """
    pairs = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
