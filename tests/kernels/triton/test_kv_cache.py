"""Keys and values into their blocks, against the reference."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.kernels import reference, triton
from octavo.kernels.cache import Int8Cache
from tests.kernels.triton.tolerances import DTYPES

pytestmark = pytest.mark.usefixtures("triton_kernels")

BLOCK = 16
NUM_BLOCKS = 40


def store(ops: ModuleType, key: torch.Tensor, value: torch.Tensor, caches: list, lengths: list[int]) -> None:
    """New tokens of sequences that have no others, whose blocks are scattered over the pool."""
    queries = np.array(lengths, np.int32)
    widest = -(-max(lengths) // BLOCK)
    tables = np.random.default_rng(0).permutation(NUM_BLOCKS)[: len(lengths) * widest]
    positions = np.concatenate([np.arange(length) for length in lengths]).astype(np.int32)
    plan = ops.plan_attention(
        queries,
        queries,
        positions,
        tables.reshape(len(lengths), widest).astype(np.int32),
        BLOCK,
        key.shape[1],
        key,
    )
    ops.store_kv(key, value, *caches, plan)


@pytest.mark.no_cover
@settings(max_examples=20, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=4),
    kv_heads=st.integers(1, 5),
    head_dim=st.sampled_from([64, 80, 96, 128, 256]),
    dtype=st.sampled_from(DTYPES),
)
def test_what_is_stored_is_what_the_reference_stores(
    lengths: list[int], kv_heads: int, head_dim: int, dtype: torch.dtype
) -> None:
    packed = torch.randn(sum(lengths), 2 * kv_heads, head_dim).to(dtype)
    key, value = packed[:, :kv_heads], packed[:, kv_heads:]
    shape = (NUM_BLOCKS, kv_heads, BLOCK, head_dim)
    caches = [[torch.full(shape, 7.0, dtype=dtype) for _ in range(2)] for _ in range(2)]
    store(triton, key, value, caches[0], lengths)
    store(reference, key, value, caches[1], lengths)
    assert torch.equal(caches[0][0], caches[1][0])
    assert torch.equal(caches[0][1], caches[1][1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_8_bits_half_a_step_is_lost_at_most(dtype: torch.dtype) -> None:
    key, value = torch.randn(2, 30, 3, 80).to(dtype)
    key[4, 1] = 0
    shape = (NUM_BLOCKS, 3, BLOCK, 80)

    def caches() -> list[Int8Cache[torch.Tensor]]:
        return [Int8Cache(torch.zeros(shape, dtype=torch.int8), torch.zeros(shape[:3])) for _ in range(2)]

    ours, expected = caches(), caches()
    store(triton, key, value, ours, [20, 10])
    store(reference, key, value, expected, [20, 10])
    for cache, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(cache.scales, other.scales)
        # Halves may be rounded either way.
        assert (cache.values.int() - other.values.int()).abs().max() <= 1
        assert (cache.values != other.values).float().mean() < 1e-3
        assert cache.values.abs().max() == 127


def test_the_copies_of_a_quantised_cache_take_the_scales_along() -> None:
    cache = Int8Cache(torch.randint(-127, 128, (4, 2, BLOCK, 3)).to(torch.int8), torch.rand(4, 2, BLOCK))
    values, scales = cache.values.clone(), cache.scales.clone()
    triton.copy_blocks(cache, torch.tensor([[0, 2], [1, 3]]))
    assert torch.equal(cache.values, values[[0, 1, 0, 1]])
    assert torch.equal(cache.scales, scales[[0, 1, 0, 1]])
