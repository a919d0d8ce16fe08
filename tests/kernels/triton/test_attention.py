"""Paged attention against the reference, for ragged batches over scattered and shared
blocks."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.kernels import reference, triton
from octavo.kernels.cache import Int8Cache
from octavo.kernels.triton import attention
from tests.kernels.triton.tolerances import DTYPES, close

pytestmark = pytest.mark.usefixtures("triton_kernels")

BLOCK = 16
POOL = 96
"""Blocks in the pool: fewer than some contexts take, so that their tables have blocks more than once."""

Cache = torch.Tensor | Int8Cache[torch.Tensor]


@dataclass
class World:
    """Queries of a step over a pool of random blocks.

    lengths: of each sequence its new tokens and its context. Sequences share blocks, and the blocks between
    those that any has are NaN.
    """

    lengths: list[tuple[int, int]]
    kv_heads: int = 2
    group: int = 2
    head_dim: int = 64
    dtype: torch.dtype = torch.float32
    int8: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self.queries = np.array([new for new, _ in self.lengths], np.int32)
        self.contexts = np.array([context for _, context in self.lengths], np.int32)
        widest = -(-int(self.contexts.max()) // BLOCK)
        half = POOL // 2
        self.tables = (
            2 * torch.randint(0, half, (len(self.lengths), widest), generator=generator).int().numpy()
        )
        shape = (POOL, self.kv_heads, BLOCK, self.head_dim)
        heads = self.kv_heads * self.group
        packed = torch.randn(int(self.queries.sum()), heads + 3, self.head_dim, generator=generator)
        self.query = packed.to(self.dtype)[:, 1 : 1 + heads]
        self.key_cache, self.value_cache = (self.cache(shape, generator) for _ in range(2))
        self.sinks = torch.randn(heads, generator=generator).to(self.dtype)

    def cache(self, shape: tuple[int, ...], generator: torch.Generator) -> Cache:
        values = torch.randn(shape, generator=generator)
        if self.int8:
            scales = 0.02 + 0.02 * torch.rand(shape[:3], generator=generator)
            scales[1::2] = torch.nan
            return Int8Cache((40 * values).clamp(-127, 127).to(torch.int8), scales)
        values[1::2] = torch.nan
        return values.to(self.dtype)

    def attend(
        self, ops: ModuleType, dtype: torch.dtype, window: int | None, softcap: float | None, sinks: bool
    ) -> torch.Tensor:
        def of(cache: Cache) -> Cache:
            return cache if isinstance(cache, Int8Cache) else cache.to(dtype)

        query = self.query.to(dtype)
        pairs = zip(self.queries, self.contexts, strict=True)
        positions = np.concatenate([np.arange(context - new, context) for new, context in pairs])
        plan = ops.plan_attention(
            self.queries, self.contexts, positions.astype(np.int32), self.tables, BLOCK, self.kv_heads, query
        )
        result: torch.Tensor = ops.paged_attention(
            query,
            of(self.key_cache),
            of(self.value_cache),
            plan,
            self.head_dim**-0.5,
            window,
            softcap,
            self.sinks.to(dtype) if sinks else None,
        )
        return result

    def check(self, window: int | None = None, softcap: float | None = None, sinks: bool = False) -> None:
        """The reference computes in float32, so that only the kernel rounds."""
        expected = self.attend(reference, torch.float32, window, softcap, sinks)
        close(self.attend(triton, self.dtype, window, softcap, sinks), expected.to(self.dtype))


def lengths(most: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Decodes, guesses to verify, prompts and their chunks, in any order."""
    new = st.one_of(st.just(1), st.integers(2, 16), st.integers(17, 90))
    pair = st.tuples(new, st.integers(0, most)).map(lambda pair: (pair[0], sum(pair)))
    return st.lists(pair, min_size=1, max_size=4)


@pytest.mark.no_cover
@settings(max_examples=40, derandomize=True)
@given(
    lengths=lengths(300),
    kv_heads=st.sampled_from([1, 2]),
    group=st.integers(1, 8),
    head_dim=st.sampled_from([64, 80, 96, 128, 192]),
    dtype=st.sampled_from(DTYPES),
    int8=st.booleans(),
    window=st.sampled_from([None, None, 1, 24, 100]),
    softcap=st.sampled_from([None, None, 2.0]),
    sinks=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_ragged_batches(
    lengths: list[tuple[int, int]],
    kv_heads: int,
    group: int,
    head_dim: int,
    dtype: torch.dtype,
    int8: bool,
    window: int | None,
    softcap: float | None,
    sinks: bool,
    seed: int,
) -> None:
    World(lengths, kv_heads, group, head_dim, dtype, int8, seed).check(window, softcap, sinks)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("int8", [False, True])
def test_heads_of_256(dtype: torch.dtype, int8: bool) -> None:
    World([(1, 70), (20, 45), (12, 12)], 1, 8, 256, dtype, int8).check(softcap=30.0)


@pytest.mark.parametrize("window", [None, 600])
@pytest.mark.parametrize("int8", [False, True])
def test_long_contexts_are_split(int8: bool, window: int | None) -> None:
    """And one so short beside them that some of its parts are empty."""
    assert attention.num_splits(num_programs=3, context=4096) > 1
    World([(1, 4096), (1, 2049), (1, 1)], 1, 4, 64, torch.bfloat16, int8).check(window, sinks=True)


@pytest.mark.no_cover
@pytest.mark.parametrize("lengths", [[(1, 500)], [(5, 300)], [(40, 400), (1, 130)]])
def test_what_a_window_has_left_behind_is_not_read(lengths: list[tuple[int, int]]) -> None:
    """A table may have holes there: blocks that now are another sequence's, or have never been written."""
    window = 50
    world = World(lengths, dtype=torch.float32)
    expected = world.attend(reference, torch.float32, window, None, False)
    for table, (new, context) in zip(world.tables, lengths, strict=True):
        first_seen = context - new - window + 1
        table[: first_seen // BLOCK] = 1  # all NaN
    close(world.attend(triton, torch.float32, window, None, False), expected)


def test_a_chunk_of_a_long_prompt() -> None:
    World([(40, 4000)], 1, 2, 64).check()


def test_the_number_of_splits_keeps_the_card_busy_and_each_split_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "multiprocessors", lambda: 108)
    assert attention.num_splits(num_programs=8, context=32768) == 27
    assert attention.num_splits(num_programs=8, context=1024) == 4
    assert attention.num_splits(num_programs=512, context=32768) == 1
    assert attention.num_splits(num_programs=1, context=131072) == attention.MOST_SPLITS
