"""Attention over paged keys and values: launches of `attention_kernels`, and their tiles.
Contract: `octavo.kernels.ops.Ops.paged_attention`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
from torch import Tensor

from octavo.kernels.cache import Int8Cache
from octavo.kernels.triton.architectures import current_architecture, multiprocessors
from octavo.kernels.triton.attention_kernels import add_partial_attention_kernel, paged_attention_kernel
from octavo.kernels.triton.attention_tiles import Case, most_rows, tile_of
from octavo.kernels.triton.kv_cache import Cache, parts

if TYPE_CHECKING:
    from octavo.kernels.triton.attention_tiles import Form
    from octavo.kernels.triton.plan import Plan, Rows

LOG2_E = 1.4426950408889634
EVERYTHING = 1 << 30
"""A window wider than any context."""

LEAST_SHARE = 256
"""Tokens of a context for which a split is worth its part of the second pass."""

MOST_SPLITS = 64
FEW = 8
"""Multiprocessors that are assumed where there is no GPU: the interpreter splits some contexts then."""


def paged_attention(
    query: Tensor,
    key_cache: Cache,
    value_cache: Cache,
    plan: Plan,
    scale: float,
    window: int | None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    assert query.stride(-1) == 1
    for rows in (plan.short, plan.long):
        if rows is not None:
            _attend(query, key_cache, value_cache, plan, rows, scale, window, softcap, sinks, out)
    return out


def _attend(
    query: Tensor,
    key_cache: Cache,
    value_cache: Cache,
    plan: Plan,
    rows: Rows,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
    out: Tensor,
) -> None:
    """The sequences of `rows`, into their rows of `out`."""
    (keys, key_scales), (values, value_scales) = parts(key_cache), parts(value_cache)
    _, num_heads, head_dim = query.shape
    num_kv_heads, block_size = keys.shape[1], keys.shape[2]
    group = num_heads // num_kv_heads
    int8 = isinstance(key_cache, Int8Cache)
    tiled = rows is plan.long or group * rows.most_tokens > most_rows(head_dim)
    form: Form = "tiled" if tiled else "short"
    case = Case(form, head_dim, group, group * rows.most_tokens, query.dtype.itemsize, int8)
    tile = tile_of(case, current_architecture())
    block_m = tile.constants["BLOCK_M"]
    if tiled:
        num_tiles, splits = rows.num_tokens // (block_m // group) + rows.num_seqs, 1
    else:
        seen = min(rows.longest_context, (window or EVERYTHING) + rows.most_tokens)
        num_tiles, splits = rows.num_seqs, num_splits(rows.num_seqs * num_kv_heads, seen)
    target, weights = out, out
    if splits > 1:
        shape = (rows.num_seqs, num_kv_heads, splits, block_m)
        weights = torch.empty(shape, dtype=torch.float32, device=query.device)
        target = torch.empty((*shape, head_dim), dtype=torch.float32, device=query.device)
    paged_attention_kernel[(num_tiles, num_kv_heads, splits)](
        query,
        keys,
        values,
        key_scales,
        value_scales,
        query if sinks is None else sinks,
        target,
        weights,
        rows.numbers,
        plan.block_tables,
        rows.num_seqs,
        plan.block_tables.shape[1],
        query.stride(0),
        query.stride(1),
        window or EVERYTHING,
        scale * LOG2_E,
        (softcap or 0.0) * LOG2_E,
        BLOCK_SIZE=block_size,
        HEAD_DIM=head_dim,
        GROUP=group,
        INT8=int8,
        SOFTCAP=softcap is not None,
        SINKS=sinks is not None,
        TILED=tiled,
        PARTIAL=splits > 1,
        **tile.launch(),
    )
    if splits > 1:
        add_partial_attention_kernel[(rows.num_seqs, rows.most_tokens, num_heads)](
            target,
            weights,
            out,
            rows.numbers,
            rows.num_seqs,
            splits,
            HEAD_DIM=head_dim,
            GROUP=group,
            BLOCK_M=block_m,
            BLOCK_D=tile.constants["BLOCK_D"],
            SPLITS=triton.next_power_of_2(splits),
            num_warps=4,
        )


def num_splits(num_programs: int, context: int) -> int:
    """In how many parts the longest context is read, where there are `num_programs` without splitting: enough
    for two programs on each multiprocessor."""
    wanted = -(-2 * (multiprocessors() or FEW) // num_programs)
    return max(1, min(wanted, context // LEAST_SHARE, MOST_SPLITS))
