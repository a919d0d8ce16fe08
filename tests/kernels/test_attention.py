"""Paged attention against the textbook formula, for ragged batches over scattered and shared blocks."""

from __future__ import annotations

from typing import Any

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


def plan_of(
    queries: list[int], contexts: list[int], tables: torch.Tensor, kv_heads: int, like: torch.Tensor
) -> Any:
    positions = [np.arange(context - n, context) for n, context in zip(queries, contexts, strict=True)]
    return reference.plan_attention(
        np.array(queries, np.int32),
        np.array(contexts, np.int32),
        np.concatenate(positions).astype(np.int32),
        tables.int().numpy(),
        BLOCK,
        kv_heads,
        like,
    )


@settings(max_examples=60)
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
    key_cache = torch.randn(num_blocks, kv_heads, BLOCK, dim, generator=generator)
    value_cache = torch.randn(num_blocks, kv_heads, BLOCK, dim, generator=generator)
    tables = torch.randint(0, num_blocks, (len(lengths), 5), generator=generator)  # some blocks shared
    query = torch.randn(sum(queries), kv_heads * group, dim, generator=generator)

    plan = plan_of(queries, contexts, tables, kv_heads, query)
    output = reference.paged_attention(query, key_cache, value_cache, plan, 0.3, window)

    first = 0
    for sequence, (num_new, context) in enumerate(zip(queries, contexts, strict=True)):
        keys = key_cache[tables[sequence]].transpose(1, 2).flatten(0, 1)[:context]
        values = value_cache[tables[sequence]].transpose(1, 2).flatten(0, 1)[:context]
        rows = slice(first, first + num_new)
        expected = textbook(query[rows], keys, values, context - num_new, 0.3, window)
        torch.testing.assert_close(output[rows], expected, atol=1e-5, rtol=1e-4)
        first += num_new


@settings(max_examples=30)
@given(
    num_tokens=st.integers(2, 300),
    context=st.integers(0, 100),
    heads=st.sampled_from([(1, 1), (3, 3), (2, 4)]),
    window=st.sampled_from([None, 9]),
)
def test_a_prefill_chunk_in_bfloat16(
    num_tokens: int, context: int, heads: tuple[int, int], window: int | None
) -> None:
    """bfloat16 goes by plain products on a CPU, in pieces; its rounding is what separates it from float32."""
    generator = torch.Generator().manual_seed(num_tokens)
    kv_heads, group = heads
    caches = torch.randn(2, 32, kv_heads, BLOCK, 16, generator=generator).bfloat16()
    query = torch.randn(num_tokens, kv_heads * group, 16, generator=generator).bfloat16()
    table = torch.randperm(32, generator=generator)[None]

    def attend(query: torch.Tensor, caches: torch.Tensor) -> torch.Tensor:
        plan = plan_of([num_tokens], [num_tokens + context], table, kv_heads, query)
        return reference.paged_attention(query, caches[0], caches[1], plan, 0.25, window)

    expected = attend(query.float(), caches.float())
    torch.testing.assert_close(attend(query, caches).float(), expected, atol=0.06, rtol=0.02)


def test_what_is_stored_is_found_through_the_block_table() -> None:
    key_cache, value_cache = torch.zeros(4, 2, BLOCK, 3), torch.zeros(4, 2, BLOCK, 3)
    key, value = torch.randn(2, 2, 3), torch.randn(2, 2, 3)
    plan = plan_of([2], [BLOCK + 6], torch.tensor([[1, 3]]), 2, key)
    reference.store_kv(key, value, key_cache, value_cache, plan)
    assert torch.equal(key_cache[3, :, 4], key[0])
    assert torch.equal(value_cache[3, :, 5], value[1])
    assert torch.count_nonzero(key_cache) == key.numel(), "nothing else was written"


def test_copies_take_whole_blocks() -> None:
    cache = torch.randn(4, BLOCK, 2, 3)
    before = cache.clone()
    reference.copy_blocks(cache, torch.tensor([[0, 2], [1, 3]]))
    assert torch.equal(cache, before[[0, 1, 0, 1]])


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="relu6"):
        reference.gated_activation(torch.zeros(1, 4), "relu6")
