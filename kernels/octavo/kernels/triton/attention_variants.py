"""What is compiled of the attention kernels, and their rooflines."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch

from octavo.kernels.triton.attention import paged_attention
from octavo.kernels.triton.attention_kernels import add_partial_attention_kernel, paged_attention_kernel
from octavo.kernels.triton.attention_tiles import Case, candidates, fit
from octavo.kernels.triton.kv_cache import random_cache
from octavo.kernels.triton.plan import plan_attention
from octavo.kernels.triton.registry import Tile, Variant, Workload, grouped_by_tile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from octavo.kernels.triton.registry import Call


def variants() -> Iterator[Variant]:
    for dtype, int8 in (("bf16", False), ("fp16", False), ("bf16", True), ("fp16", True)):
        for head_dim in (64, 128, 256):
            yield from _variants(dtype, int8, head_dim, "tiled")
            yield from _variants(dtype, int8, head_dim, "partial")
            yield from _variants(dtype, int8, head_dim, "partial", rows=64)
    for head_dim in (64, 128, 256):
        yield from _variants("bf16", False, head_dim, "direct")
        yield from _variants("fp32", False, head_dim, "tiled")
        yield from _variants("fp32", False, head_dim, "partial")
    for head_dim in (80, 96):
        for form in ("tiled", "partial"):
            yield from _variants("bf16", False, head_dim, form)
            yield from _variants("bf16", True, head_dim, form)
    yield from _variants("bf16", False, 128, "partial", rows=128)
    for group in (1, 8):
        yield from _variants("bf16", False, 128, "tiled", group=group)
    for head_dim, int8 in product((64, 128, 256), (False, True)):
        yield from _variants("bf16", int8, head_dim, "tiled", group=7)
    yield from _variants("bf16", False, 128, "partial", group=7)
    # Gemma 2's soft-cap and gpt-oss's sinks.
    for form in ("tiled", "partial"):
        yield from _variants("bf16", False, 256, form, SOFTCAP=True)
        yield from _variants("bf16", False, 64, form, SINKS=True)
    for dtype, head_dim in (
        ("bf16", 64),
        ("bf16", 80),
        ("bf16", 128),
        ("bf16", 256),
        ("fp16", 128),
        ("fp32", 128),
    ):
        yield _adding_variant(dtype, head_dim)
    for splits in (2, 4, 8, 32, 64):
        yield _adding_variant("bf16", 128, splits)


def _variants(
    dtype: str, int8: bool, head_dim: int, form: str, *, group: int = 4, rows: int = 16, **options: bool
) -> Iterator[Variant]:
    """One for each tile that some architecture may have."""
    itemsize = 4 if dtype == "fp32" else 2
    case = Case("tiled" if form == "tiled" else "short", head_dim, group, rows, itemsize, int8)

    def tiles(architecture: str) -> list[Tile]:
        return [fit(case, tile, architecture) for tile in candidates(case, architecture)]

    for tile, architectures in grouped_by_tile(tiles):
        yield _variant(dtype, int8, head_dim, form, group, tile, architectures, options)


def _variant(
    dtype: str,
    int8: bool,
    head_dim: int,
    form: str,
    group: int,
    tile: Tile,
    architectures: tuple[str, ...],
    options: dict[str, bool],
) -> Variant:
    pointer = f"*{dtype}:16"
    cache, scales = ("*i8:16", "*fp32:16") if int8 else (pointer, pointer)
    result = "*fp32:16" if form == "partial" else pointer
    return Variant(
        kernel=paged_attention_kernel,
        dtype=f"{dtype}, int8 KV" if int8 else dtype,
        tile=tile,
        arguments={
            "query_ptr": pointer,
            "key_ptr": cache,
            "value_ptr": cache,
            "key_scales_ptr": scales,
            "value_scales_ptr": scales,
            "sinks_ptr": pointer,
            "out_ptr": result,
            "weights_ptr": result,
            "numbers_ptr": "*i32",
            "tables_ptr": "*i32",
            "num_seqs": "i32",
            "max_blocks": "i32",
            "query_stride_token": "i32:16",
            "query_stride_head": "i32:16",
            "window": "i32",
            "scale": "fp32",
            "softcap": "fp32",
        },
        constants={
            "BLOCK_SIZE": 16,
            "HEAD_DIM": head_dim,
            "GROUP": group,
            "INT8": int8,
            "SOFTCAP": False,
            "SINKS": False,
            "TILED": form == "tiled",
            "PARTIAL": form == "partial",
            **options,
        },
        hot=dtype != "fp32",  # no one serves float32 on a GPU; it is there to compare with
        architectures=architectures,
    )


def _adding_variant(dtype: str, head_dim: int, splits: int = 16) -> Variant:
    block_d = Case("short", head_dim, 4, 16, 2, int8=False).block_d
    return Variant(
        kernel=add_partial_attention_kernel,
        dtype=dtype,
        tile=Tile({"BLOCK_D": block_d, "BLOCK_M": 16, "SPLITS": splits}),
        arguments={
            "partial_ptr": "*fp32:16",
            "weights_ptr": "*fp32:16",
            "out_ptr": f"*{dtype}:16",
            "numbers_ptr": "*i32",
            "num_seqs": "i32",
            "num_splits": "i32",
        },
        constants={"HEAD_DIM": head_dim, "GROUP": 4},
    )


def workloads() -> Iterator[Workload]:
    """Heads as in Llama 3 8B: 32 of 128 elements, 8 of keys and values."""
    for num_seqs, new, context, int8 in (
        (1, 1, 32768, False),
        (64, 1, 4096, False),
        (64, 1, 4096, True),
        (1, 8192, 8192, False),
        (1, 2048, 32768, False),
    ):
        yield workload(num_seqs, new, context, int8)


def workload(num_seqs: int, new: int, context: int, int8: bool, dim: int = 128) -> Workload:
    """num_seqs sequences, each of `context` tokens, the last `new` of them new."""
    heads, kv_heads = 32, 8
    case = Case("tiled" if new > 1 else "short", dim, heads // kv_heads, heads // kv_heads * new, 2, int8)
    pairs = num_seqs * sum(range(context - new + 1, context + 1))
    element = 1 + 4 / dim if int8 else 2
    return Workload(
        op="paged_attention",
        size=f"{num_seqs} × {new} new of {context} tokens, {heads} heads of {dim}, {kv_heads} of them for KV",
        dtype="bf16, int8 KV" if int8 else "bf16",
        bytes=int(num_seqs * (2 * context * kv_heads * dim * element + 2 * 2 * new * heads * dim)),
        flops=4 * pairs * heads * dim,
        unit="bf16",
        prepare=partial(_prepare, num_seqs, new, context, heads, kv_heads, dim, int8),
        kernel=paged_attention_kernel.__name__,
        key=case.key,
        candidates=partial(candidates, case),
    )


def _prepare(
    num_seqs: int,
    new: int,
    context: int,
    heads: int,
    kv_heads: int,
    dim: int,
    int8: bool,
    device: torch.device,
) -> Call:
    query = torch.randn(num_seqs * new, heads, dim, dtype=torch.bfloat16, device=device)
    blocks = -(-context // 16)
    keys, values = (random_cache(num_seqs * blocks, kv_heads, dim, query, int8=int8) for _ in range(2))
    plan = plan_attention(
        np.full(num_seqs, new, np.int32),
        np.full(num_seqs, context, np.int32),
        np.tile(np.arange(context - new, context, dtype=np.int32), num_seqs),
        np.random.permutation(num_seqs * blocks).astype(np.int32).reshape(num_seqs, blocks),
        16,
        kv_heads,
        query,
    )
    return lambda: paged_attention(query, keys, values, plan, dim**-0.5, None)
