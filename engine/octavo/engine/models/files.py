"""What a loader gives, whatever the format of the files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

from octavo.engine.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping
    from pathlib import Path

    from octavo.engine.models.shard import Shard
    from octavo.engine.models.spec import DecoderSpec, StoredType, Weight
    from octavo.engine.tokenizer import Tokenizer


class ModelFiles(ABC):
    """An opened model: all headers are read and checked, weights and tokenizer are read when asked for.

    name: what the model is served as: the folder's name, the file's stem or the Hugging Face id.
    path: the folder, or the GGUF file.
    dtype: the type that most of the checkpoint's weights have; float32 where they are quantised.
    quantized: whether most of the weights are stored in fewer bits than any of these types.
    """

    name: str
    path: Path
    spec: DecoderSpec
    dtype: StoredType
    quantized: bool = False

    @abstractmethod
    def weights(
        self, as_stored: Container[str] = frozenset(), shard: Shard | None = None
    ) -> Iterator[Weight]:
        """Every weight of `spec.weight_shapes()` exactly once, in exactly that shape. May be called again.

        as_stored: names out of `ggml_types`, whose blocks are wanted as they are.
        shard: a rank's; then its parts alone, in the shapes of its own spec. Of the files no more is read
            than what these lie in. Blocks that are wanted as they are must not be cut by it.

        That the files hold them all was checked when they were opened. Tensors that the decoder does not have
        are ignored, the output projection of tied embeddings among them.
        """

    def ggml_types(self) -> Mapping[str, int]:
        """The weights that are stored in GGML's quantised blocks, by name, and the number of their type."""
        return {}

    @abstractmethod
    def stored_in(self) -> list[Path]:
        """The files that hold the weights."""

    @cached_property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a sequence; empty where neither files nor tokenizer name one."""
        return tuple(dict.fromkeys(self._eos_token_ids()))

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, loaded once. Raises ModelError where the files have none of use."""
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return self._load_tokenizer()

    @abstractmethod
    def _load_tokenizer(self) -> Tokenizer: ...

    @abstractmethod
    def _eos_token_ids(self) -> tuple[int, ...]: ...


def check_shapes(
    source: str, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises ModelError naming the tensors, as the checkpoint does, that are missing or of another shape."""
    missing = [name for name in expected if name not in found]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelError(f"{source}: missing weights: {', '.join(missing[:3])}{more}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise ModelError(
                f"{source}: {name} has shape {list(found[name])}, the configuration says {list(shape)}"
            )
