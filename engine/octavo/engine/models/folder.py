"""A model as Hugging Face lays it out: a folder with config.json, safetensors and a tokenizer."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from octavo.engine.errors import ModelError
from octavo.engine.models.config import Config, read_json
from octavo.engine.models.families import family_of_hugging_face
from octavo.engine.models.files import ModelFiles, check_shapes
from octavo.engine.models.names import HUGGING_FACE, checkpoint_name
from octavo.engine.models.safetensors import DTYPES, read_checkpoint
from octavo.engine.models.spec import StoredType, Weight

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from pathlib import Path

    from octavo.engine.models.shard import Shard
    from octavo.engine.tokenizer import Tokenizer


class ModelFolder(ModelFiles):
    """Weights are read-only views of the mapped files, so that only what is used is ever read."""

    def __init__(self, folder: Path, name: str) -> None:
        config_file = folder / "config.json"
        if not config_file.is_file():
            hint = "; name the .gguf file itself" if any(folder.glob("*.gguf")) else ""
            raise ModelError(f"{folder}: no config.json in this folder, so it holds no model{hint}")
        config = Config(str(config_file), read_json(config_file))
        if config.get("quantization_config") is not None:
            raise config.refusal(
                "quantization_config", "is not supported; take the unquantised model or a GGUF file"
            )
        self.name, self.path = name, folder
        self.spec = family_of_hugging_face(config).spec(config)
        self._config = config
        self._tensors = self._checked_tensors()
        sizes: Counter[StoredType] = Counter()
        for tensor in self._tensors.values():
            sizes[DTYPES[tensor.dtype][0]] += tensor.stop - tensor.start
        self.dtype = sizes.most_common(1)[0][0]

    def _checked_tensors(self) -> dict[str, Any]:
        """The checkpoint's tensors by canonical name."""
        stored = read_checkpoint(self.path)
        shapes = self.spec.weight_shapes()
        theirs = {name: checkpoint_name(name, HUGGING_FACE) for name in shapes}
        expected = {theirs[name]: shape for name, shape in shapes.items()}
        check_shapes(str(self.path), expected, {name: tensor.shape for name, tensor in stored.items()})
        for name in expected:
            if stored[name].dtype not in DTYPES:
                raise ModelError(
                    f"{stored[name].file}: {name} is of type {stored[name].dtype}; supported are "
                    + ", ".join(DTYPES)
                )
        return {name: stored[theirs[name]] for name in shapes}

    def stored_in(self) -> list[Path]:
        return sorted({tensor.file for tensor in self._tensors.values()})

    def weights(
        self, as_stored: Container[str] = frozenset(), shard: Shard | None = None
    ) -> Iterator[Weight]:
        mapped: dict[Path, np.memmap[Any, Any]] = {}
        for name, tensor in self._tensors.items():
            if tensor.file not in mapped:
                mapped[tensor.file] = np.memmap(tensor.file, np.uint8, mode="r")
            stored, data = tensor.read(mapped[tensor.file], shard.index(name) if shard else ())
            if shard is not None and shard.is_added_elsewhere(name):
                data = np.zeros_like(data)
            yield Weight(name, stored, data)

    def _load_tokenizer(self) -> Tokenizer:
        from octavo.engine.tokenizer import Tokenizer

        return Tokenizer.from_folder(self.path)

    def _eos_token_ids(self) -> tuple[int, ...]:
        """generation_config.json knows best: instruct models list there every token that ends a turn."""
        generation_file = self.path / "generation_config.json"
        generation = read_json(generation_file) if generation_file.is_file() else {}
        for values in (generation, self._config.values):
            found = values.get("eos_token_id")
            if isinstance(found, int):
                return (found,)
            if isinstance(found, list) and found:
                return tuple(found)
        eos = self.tokenizer().eos_token_id
        return () if eos is None else (eos,)
