"""Paged attention against the textbook formula, for ragged batches over scattered and shared blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.kernels import reference

BLOCK = 16


def textbook(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    start: int,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """query: [n, heads, dim] at positions start..., keys and values: [context, kv_heads, dim]."""
    group = query.shape[1] // keys.shape[1]
    output = torch.empty_like(query)
    for i in range(query.shape[0]):
        first = 0 if window is None else max(0, start + i + 1 - window)
        for head in range(query.shape[1]):
            k, v = keys[first : start + i + 1, head // group], values[first : start + i + 1, head // group]
            output[i, head] = torch.softmax(k @ query[i, head] * scale, 0) @ v
    return output


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), min_size=1, max_size=5),
    kv_heads=st.sampled_from([1, 2, 3]),
    group=st.sampled_from([1, 2, 4]),
    window=st.sampled_from([None, 1, 7, 40]),
    seed=st.integers(0, 2**20),
)
def test_ragged_batches(
    lengths: list[tuple[int, int]], kv_heads: int, group: int, window: int | None, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    dim, num_blocks = 8, 64
    queries = [min(lengths_) for lengths_ in lengths]
    contexts = [max(lengths_) for lengths_ in lengths]
    key_cache = torch.randn(num_blocks, BLOCK, kv_heads, dim, generator=generator)
    value_cache = torch.randn(num_blocks, BLOCK, kv_heads, dim, generator=generator)
    tables = torch.randint(0, num_blocks, (len(lengths), 5), generator=generator)  # some blocks shared
    query = torch.randn(sum(queries), kv_heads * group, dim, generator=generator)

    plan = reference.plan_attention(
        np.array(queries, np.int32), np.array(contexts, np.int32), tables.int().numpy(), BLOCK, query
    )
    output = reference.paged_attention(query, key_cache, value_cache, plan, 0.3, window)

    first = 0
    for sequence, (num_new, context) in enumerate(zip(queries, contexts, strict=True)):
        keys = key_cache[tables[sequence]].flatten(0, 1)[:context]
        values = value_cache[tables[sequence]].flatten(0, 1)[:context]
        rows = slice(first, first + num_new)
        expected = textbook(query[rows], keys, values, context - num_new, 0.3, window)
        torch.testing.assert_close(output[rows], expected, atol=1e-5, rtol=1e-4)
        first += num_new


def test_what_is_stored_is_found_through_the_block_table() -> None:
    key_cache, value_cache = torch.zeros(4, BLOCK, 1, 2), torch.zeros(4, BLOCK, 1, 2)
    key, value = torch.randn(2, 1, 2), torch.randn(2, 1, 2)
    reference.store_kv(key, value, key_cache, value_cache, torch.tensor([3 * BLOCK + 5, 0]))
    assert torch.equal(key_cache[3, 5], key[0])
    assert torch.equal(value_cache[0, 0], value[1])


def test_copies_take_whole_blocks() -> None:
    cache = torch.randn(4, BLOCK, 2, 3)
    before = cache.clone()
    reference.copy_blocks(cache, torch.tensor([[0, 2], [1, 3]]))
    assert torch.equal(cache, before[[0, 1, 0, 1]])


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="relu6"):
        reference.gated_activation(torch.zeros(1, 4), "relu6")
