"""Which part of every weight one of several ranks has, and the decoder that these parts make.

Tensor parallelism (Shoeybi et al., 2019, "Megatron-LM", section 3): q, k, v, gate and up are cut by rows, o
and down by columns, and the sum over the ranks of what these two give is the layer's. Embedding and output
are cut by tokens of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from octavo.engine.errors import ConfigError

if TYPE_CHECKING:
    from octavo.engine.models.spec import DecoderSpec

BY_ROWS = {
    "q": "queries", "k": "keys", "v": "keys", "gate": "inner", "up": "inner",
    "embedding": "vocabulary", "output": "vocabulary",
}  # fmt: skip
BY_COLUMNS = {"o": "queries", "down": "inner"}
UNIT = 32
"""What can be cut at many places is cut at multiples of this, which blocks of quantised weights end at."""

Bounds = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Shard:
    """Rank `rank` of `size`.

    spec: of the decoder that this rank computes: fewer heads, a narrower feed-forward and a part of the
        vocabulary, at the whole hidden size.
    bounds: what this rank has of queries, keys, inner and vocabulary, in rows of the whole weights.
    vocabulary: the sizes of all ranks' parts of it, in order of the ranks.
    """

    rank: int
    size: int
    spec: DecoderSpec
    bounds: dict[str, Bounds]
    vocabulary: tuple[int, ...]

    @classmethod
    def of(cls, whole: DecoderSpec, rank: int = 0, size: int = 1) -> Shard:
        """Asserts what `check_divides` refuses. Ranks that share a key-value head have it each."""
        assert divides(whole, size)
        heads, dim = whole.num_heads // size, whole.head_dim
        kv_heads = max(whole.num_kv_heads // size, 1)
        first_kv_head = rank * whole.num_kv_heads // size
        inner = cut_evenly(whole.intermediate_size, size)
        vocabulary = cut_evenly(whole.vocab_size, size)
        return cls(
            rank,
            size,
            replace(
                whole,
                num_heads=heads,
                num_kv_heads=kv_heads,
                intermediate_size=_length(inner[rank]),
                vocab_size=_length(vocabulary[rank]),
            ),
            {
                "queries": (rank * heads * dim, (rank + 1) * heads * dim),
                "keys": (first_kv_head * dim, (first_kv_head + kv_heads) * dim),
                "inner": inner[rank],
                "vocabulary": vocabulary[rank],
            },
            tuple(map(_length, vocabulary)),
        )

    @property
    def first_token(self) -> int:
        """Of its part of the vocabulary."""
        return self.bounds["vocabulary"][0]

    def index(self, name: str) -> tuple[slice, ...]:
        """What this rank takes of the weight of this canonical name: no slice for all of it, one of its rows,
        or all rows and a slice of its columns."""
        kind = _kind(name)
        if kind in BY_ROWS:
            return (slice(*self.bounds[BY_ROWS[kind]]),)
        if kind in BY_COLUMNS and not name.endswith(".bias"):
            return (slice(None), slice(*self.bounds[BY_COLUMNS[kind]]))
        return ()

    def is_added_elsewhere(self, name: str) -> bool:
        """Whether this is a bias of a sum over the ranks, which rank 0 adds and the others must not."""
        return self.rank > 0 and name.endswith(".bias") and _kind(name) in BY_COLUMNS

    def take(self, name: str, data: np.ndarray) -> np.ndarray:
        """This rank's part of a weight, as a view where it can be one."""
        return np.zeros_like(data) if self.is_added_elsewhere(name) else data[self.index(name)]


def divides(spec: DecoderSpec, size: int) -> bool:
    return spec.num_heads % size == 0 and (spec.num_kv_heads % size == 0 or size % spec.num_kv_heads == 0)


def check_divides(spec: DecoderSpec, size: int, model: str) -> None:
    """Raises ConfigError where `size` ranks cannot share the heads of a model."""
    if size < 1:
        raise ConfigError(f"tensor_parallel_size: must be at least 1 (got {size})")
    if divides(spec, size):
        return
    possible = ", ".join(str(n) for n in range(1, spec.num_heads + 1) if divides(spec, n))
    if spec.num_heads % size:
        rule = f"must divide the {spec.num_heads} query heads of {model}"
    else:
        rule = f"must divide the {spec.num_kv_heads} key-value heads of {model}, or be a multiple of them"
    raise ConfigError(f"tensor_parallel_size: {rule}; possible are {possible} (got {size})")


def cut_evenly(total: int, size: int) -> list[Bounds]:
    """`size` neighbouring parts that differ by one unit at most."""
    unit = UNIT if total % UNIT == 0 and total // UNIT >= size else 1
    ends = [total // unit * i // size * unit for i in range(size + 1)]
    return list(pairwise(ends))


def _length(bounds: Bounds) -> int:
    return bounds[1] - bounds[0]


def _kind(name: str) -> str:
    return name.removesuffix(".bias").rpartition(".")[2]
