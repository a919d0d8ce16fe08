"""Attention over paged keys and values, on the device.

One kernel in three forms. A program has the queries of one sequence that share a key-value head: the heads of
a group beside each other, token after token, as rows of one matrix, so that keys and values are read once for
the group. Long prompts are cut into such tiles (form `TILED`). Of a decode there is but one, and to keep a
card busy its context is split between programs (form `PARTIAL`; Dao et al., Flash-Decoding, 2023), whose
results a second kernel adds. The softmax is computed as it goes (Milakov and Gimelshein, 2018), in base 2.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.kernels.triton.arithmetic import dot, tanh

LOG2_E = tl.constexpr(1.4426950408889634)


# What divides these would make variants of their own, compiled while a step waits for them.
@triton.jit(
    do_not_specialize=["num_seqs", "max_blocks", "window"],
    do_not_specialize_on_alignment=["numbers_ptr", "tables_ptr"],
)
def paged_attention_kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    key_scales_ptr,
    value_scales_ptr,
    sinks_ptr,
    out_ptr,
    weights_ptr,
    numbers_ptr,
    tables_ptr,
    num_seqs,
    max_blocks,
    query_stride_token,
    query_stride_head,
    window,
    scale,
    softcap,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    INT8: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SINKS: tl.constexpr,
    TILED: tl.constexpr,
    PARTIAL: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Program (tile, key-value head, split). numbers_ptr: of `plan.Rows`. scale, softcap: times log2(e), so
    that scores are exponents of 2.

    out_ptr: [num_tokens, num_heads, HEAD_DIM]; PARTIAL: float32 [num_seqs, num_kv_heads, num_splits, BLOCK_M,
    HEAD_DIM], of rows as said above, and weights_ptr: the same without the last dimension, the logarithm in
    base 2 of the sum that each row was divided by.
    """
    tile, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    num_kv_heads, num_splits = tl.num_programs(1), tl.num_programs(2)
    tokens_of_tile: tl.constexpr = BLOCK_M // GROUP
    if TILED:
        member = _sequence_of(tile, numbers_ptr + 4 * (num_seqs + 1), num_seqs, tokens_of_tile)
        before = tl.load(numbers_ptr + 4 * (num_seqs + 1) + member)
        first = (tile - before // tokens_of_tile - member) * tokens_of_tile
    else:
        member = tile
        first = 0
    first_row = tl.load(numbers_ptr + member)
    query_len = tl.load(numbers_ptr + (num_seqs + 1) + member)
    context = tl.load(numbers_ptr + 2 * (num_seqs + 1) + member)
    table_ptr = tables_ptr + tl.load(numbers_ptr + 3 * (num_seqs + 1) + member).to(tl.int64) * max_blocks
    if first >= query_len:
        return

    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    tokens = first + m // GROUP
    heads = kv_head * GROUP + m % GROUP
    is_row = (m < tokens_of_tile * GROUP) & (tokens < query_len)
    positions = context - query_len + tokens
    rows = (first_row + tokens).to(tl.int64)
    mask = is_row[:, None] & (d < HEAD_DIM)[None, :]
    query = query_ptr + rows[:, None] * query_stride_token + heads[:, None] * query_stride_head + d[None, :]
    q = tl.load(query, mask=mask, other=0.0)

    # What any row of the tile sees, and of that the part of this split.
    first_position = context - query_len + first
    end = tl.minimum(context, first_position + tokens_of_tile)
    last_position = end - 1
    start = tl.maximum(first_position - window + 1, 0) // BLOCK_SIZE * BLOCK_SIZE
    if PARTIAL:
        share = tl.cdiv(tl.cdiv(end - start, BLOCK_N), num_splits) * BLOCK_N
        start += split * share
        end = tl.minimum(end, start + share)

    best = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    if SINKS and split == 0:
        best = tl.load(sinks_ptr + heads, mask=is_row, other=0.0).to(tl.float32) * LOG2_E
        total += 1.0
    sums = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for n0 in range(start, end, BLOCK_N):
        n = n0 + tl.arange(0, BLOCK_N)
        exists = n < end
        blocks = tl.load(table_ptr + n // BLOCK_SIZE, mask=exists, other=0).to(tl.int64)
        places = (blocks * num_kv_heads + kv_head) * BLOCK_SIZE + n % BLOCK_SIZE
        elements = places[:, None] * HEAD_DIM + d[None, :]
        element_mask = exists[:, None] & (d < HEAD_DIM)[None, :]
        k = tl.load(key_ptr + elements, mask=element_mask, other=0)
        if INT8:
            k = k.to(tl.float32).to(q.dtype)
        s = dot(q, tl.trans(k)) * scale
        if INT8:
            s *= tl.load(key_scales_ptr + places, mask=exists, other=0.0)[None, :]
        if SOFTCAP:
            s = softcap * tanh(s / softcap)
        # In the midst of a prompt all rows see all keys.
        if (not TILED) | (n0 + BLOCK_N - 1 > first_position) | (n0 <= last_position - window):
            distance = positions[:, None] - n[None, :]
            s = tl.where((distance >= 0) & (distance < window), s, float("-inf"))

        higher = tl.maximum(best, tl.max(s, 1))
        # A row that has seen nothing yet has no highest score to subtract.
        top = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp2(s - top[:, None])
        shrink = tl.exp2(best - top)
        total = total * shrink + tl.sum(p, 1)
        best = higher
        v = tl.load(value_ptr + elements, mask=element_mask, other=0)
        if INT8:
            p *= tl.load(value_scales_ptr + places, mask=exists, other=0.0)[None, :]
            v = v.to(tl.float32).to(q.dtype)
        sums = sums * shrink[:, None] + dot(p.to(v.dtype), v)

    total = tl.where(total > 0.0, total, 1.0)  # of rows that have seen nothing
    result = sums / total[:, None]
    if PARTIAL:
        piece = ((member.to(tl.int64) * num_kv_heads + kv_head) * num_splits + split) * BLOCK_M + m
        tl.store(weights_ptr + piece, best + tl.log2(total), mask=is_row)
        tl.store(out_ptr + piece[:, None] * HEAD_DIM + d[None, :], result, mask=mask)
    else:
        target = (rows * (num_kv_heads * GROUP) + heads)[:, None] * HEAD_DIM + d[None, :]
        tl.store(out_ptr + target, result.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _sequence_of(tile, before_ptr, num_seqs, tokens_of_tile):
    """The sequence that a tile is of: i's first one is at (tokens before it) // tokens_of_tile + i, which
    leaves some tiles with nothing to do, but needs nothing counted by the host."""
    low, high = 0, num_seqs
    while low < high:
        middle = (low + high) // 2
        if tl.load(before_ptr + middle) // tokens_of_tile + middle <= tile:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit(do_not_specialize=["num_seqs", "num_splits"], do_not_specialize_on_alignment=["numbers_ptr"])
def add_partial_attention_kernel(
    partial_ptr,
    weights_ptr,
    out_ptr,
    numbers_ptr,
    num_seqs,
    num_splits,
    HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Program (sequence, new token, head) adds what the programs of its splits have found."""
    member, token, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    num_heads = tl.num_programs(2)
    if token >= tl.load(numbers_ptr + (num_seqs + 1) + member):
        return
    splits = tl.arange(0, SPLITS)
    d = tl.arange(0, BLOCK_D)
    kv_head = member.to(tl.int64) * (num_heads // GROUP) + head // GROUP
    pieces = (kv_head * num_splits + splits) * BLOCK_M + token * GROUP + head % GROUP
    weights = tl.load(weights_ptr + pieces, mask=splits < num_splits, other=float("-inf"))
    weights = tl.exp2(weights - tl.max(weights, 0))
    mask = (splits < num_splits)[:, None] & (d < HEAD_DIM)[None, :]
    partial = tl.load(partial_ptr + pieces[:, None] * HEAD_DIM + d[None, :], mask=mask, other=0.0)
    result = tl.sum(partial * weights[:, None], 0) / tl.sum(weights, 0)
    row = (tl.load(numbers_ptr + member) + token).to(tl.int64)
    target = out_ptr + (row * num_heads + head) * HEAD_DIM + d
    tl.store(target, result.to(out_ptr.dtype.element_ty), mask=d < HEAD_DIM)
