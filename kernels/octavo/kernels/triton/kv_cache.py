"""Keys and values into their blocks, as they are or in 8 bits. Contracts: `octavo.kernels.ops.Ops`."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.kernels.cache import Int8Cache
from octavo.kernels.triton.plan import Plan, plan_attention
from octavo.kernels.triton.registry import FLOATS, Tile, Variant, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from octavo.kernels.triton.registry import Call

Cache = Tensor | Int8Cache[Tensor]


@triton.jit(do_not_specialize=["num_kv_heads"], do_not_specialize_on_alignment=["slots_ptr"])
def store_kv_kernel(
    key_ptr,
    value_ptr,
    key_cache_ptr,
    value_cache_ptr,
    key_scales_ptr,
    value_scales_ptr,
    slots_ptr,
    num_kv_heads,
    key_stride_token,
    key_stride_head,
    value_stride_token,
    value_stride_head,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    INT8: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A program stores HEADS heads of one token, keys and values."""
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    d = tl.arange(0, BLOCK_D)
    mask = (heads < num_kv_heads)[:, None] & (d < HEAD_DIM)[None, :]
    slot = tl.load(slots_ptr + token)
    rows = ((slot // BLOCK_SIZE).to(tl.int64) * num_kv_heads + heads) * BLOCK_SIZE + slot % BLOCK_SIZE
    target = rows[:, None] * HEAD_DIM + d[None, :]
    keys = token * key_stride_token + heads[:, None] * key_stride_head + d[None, :]
    values = token * value_stride_token + heads[:, None] * value_stride_head + d[None, :]
    key = tl.load(key_ptr + keys, mask=mask, other=0.0)
    value = tl.load(value_ptr + values, mask=mask, other=0.0)
    if INT8:
        _store_int8(key, key_cache_ptr + target, key_scales_ptr + rows, mask, heads < num_kv_heads)
        _store_int8(value, value_cache_ptr + target, value_scales_ptr + rows, mask, heads < num_kv_heads)
    else:
        tl.store(key_cache_ptr + target, key, mask=mask)
        tl.store(value_cache_ptr + target, value, mask=mask)


@triton.jit
def _store_int8(x, values_ptr, scales_ptr, mask, row_mask):
    x = x.to(tl.float32)
    scale = tl.max(tl.abs(x), 1) / 127.0
    scaled = x / tl.where(scale > 0.0, scale, 1.0)[:, None]
    # Halves go away from zero, as the conversion to an integer cuts off what is behind the point.
    rounded = scaled + tl.where(scaled < 0.0, -0.5, 0.5)
    tl.store(values_ptr, rounded.to(tl.int8), mask=mask)
    tl.store(scales_ptr, scale, mask=row_mask)


def tile(num_kv_heads: int, head_dim: int) -> Tile:
    """About 1,024 elements to a program."""
    block = triton.next_power_of_2(head_dim)
    heads = min(triton.next_power_of_2(num_kv_heads), max(1, 1024 // block))
    return Tile({"HEADS": heads, "BLOCK_D": block})


def store_kv(key: Tensor, value: Tensor, key_cache: Cache, value_cache: Cache, plan: Plan) -> None:
    num_tokens, num_kv_heads, head_dim = key.shape
    keys, key_scales = parts(key_cache)
    values, value_scales = parts(value_cache)
    assert key.stride(-1) == 1
    assert value.stride(-1) == 1
    sizes = tile(num_kv_heads, head_dim)
    grid = (num_tokens, triton.cdiv(num_kv_heads, sizes.constants["HEADS"]))
    store_kv_kernel[grid](
        key,
        value,
        keys,
        values,
        key_scales,
        value_scales,
        plan.slots,
        num_kv_heads,
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        BLOCK_SIZE=keys.shape[2],
        HEAD_DIM=head_dim,
        INT8=isinstance(key_cache, Int8Cache),
        **sizes.launch(),
    )


def parts(cache: Cache) -> tuple[Tensor, Tensor]:
    """The elements and their scales; a cache that has none stands in for them."""
    if isinstance(cache, Int8Cache):
        assert cache.values.is_contiguous()
        assert cache.scales.is_contiguous()
        return cache.values, cache.scales
    assert cache.is_contiguous()
    return cache, cache


def random_cache(num_blocks: int, num_kv_heads: int, head_dim: int, like: Tensor, *, int8: bool) -> Cache:
    """For measurements."""
    values = torch.randn(num_blocks, num_kv_heads, 16, head_dim, dtype=like.dtype, device=like.device)
    if not int8:
        return values
    return Int8Cache((values * 40).to(torch.int8), torch.full(values.shape[:3], 0.025, device=like.device))


def variants() -> Iterator[Variant]:
    for dtype, (num_kv_heads, head_dim), int8 in product(
        FLOATS, ((8, 64), (32, 80), (32, 96), (8, 128), (8, 256)), (False, True)
    ):
        pointer = f"*{dtype}:16"
        cache, scales = ("*i8:16", "*fp32:16") if int8 else (pointer, pointer)
        yield Variant(
            kernel=store_kv_kernel,
            dtype=f"{dtype}, int8 KV" if int8 else dtype,
            tile=tile(num_kv_heads, head_dim),
            arguments={
                "key_ptr": pointer,
                "value_ptr": pointer,
                "key_cache_ptr": cache,
                "value_cache_ptr": cache,
                "key_scales_ptr": scales,
                "value_scales_ptr": scales,
                "slots_ptr": "*i32",
                "num_kv_heads": "i32",
                "key_stride_token": "i32:16",
                "key_stride_head": "i32:16",
                "value_stride_token": "i32:16",
                "value_stride_head": "i32:16",
            },
            constants={"BLOCK_SIZE": 16, "HEAD_DIM": head_dim, "INT8": int8},
        )


def _prepare(num_tokens: int, heads: int, dim: int, int8: bool, device: torch.device) -> Call:
    key, value = torch.randn(2, num_tokens, heads, dim, dtype=torch.bfloat16, device=device)
    blocks = -(-num_tokens // 16)
    key_cache, value_cache = (random_cache(blocks, heads, dim, key, int8=int8) for _ in range(2))
    n, table = np.array([num_tokens], np.int32), np.random.permutation(blocks).astype(np.int32)[None]
    plan = plan_attention(n, n, np.arange(num_tokens), table, 16, heads, key)
    return lambda: store_kv(key, value, key_cache, value_cache, plan)


def workloads() -> Iterator[Workload]:
    heads, dim = 8, 128
    for num_tokens, int8 in product((64, 8192), (False, True)):
        elements = 2 * num_tokens * heads * dim
        yield Workload(
            op="store_kv",
            size=f"{num_tokens} tokens, {heads} heads of {dim}",
            dtype="bf16, int8 KV" if int8 else "bf16",
            bytes=elements * 2 + (elements + elements // dim * 4 if int8 else elements * 2),
            flops=4 * elements if int8 else 0,
            unit="vector",
            prepare=partial(_prepare, num_tokens, heads, dim, int8),
        )
