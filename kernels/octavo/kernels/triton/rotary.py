"""Rotation of heads by their positions. Contract: `octavo.kernels.ops.Ops.rotary`."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.kernels.triton.registry import FLOATS, Tile, Variant, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from octavo.kernels.triton.registry import Call


@triton.jit(do_not_specialize=["num_heads"])
def rotary_kernel(
    x_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    num_heads,
    head_dim,
    half,
    stride_token,
    stride_head,
    REST: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    """A program rotates HEADS heads of one token; with REST, it copies what is not rotated, too."""
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    i = tl.arange(0, HALF)
    mask = (heads < num_heads)[:, None] & (i < half)[None, :]
    source = x_ptr + token * stride_token + heads[:, None] * stride_head + i[None, :]
    target = out_ptr + (token * num_heads + heads)[:, None] * head_dim + i[None, :]
    cos = tl.load(cos_ptr + token * half + i, mask=i < half, other=0.0).to(tl.float32)[None, :]
    sin = tl.load(sin_ptr + token * half + i, mask=i < half, other=0.0).to(tl.float32)[None, :]
    first = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(source + half, mask=mask, other=0.0).to(tl.float32)
    tl.store(target, (first * cos - second * sin).to(out_ptr.dtype.element_ty), mask=mask)
    tl.store(target + half, (second * cos + first * sin).to(out_ptr.dtype.element_ty), mask=mask)
    if REST:
        for start in range(2 * half, head_dim, HALF):
            mask = (heads < num_heads)[:, None] & (start + i < head_dim)[None, :]
            tl.store(target + start, tl.load(source + start, mask=mask), mask=mask)


def tile(num_heads: int, half: int) -> Tile:
    """About 2,048 elements to a program."""
    block = triton.next_power_of_2(half)
    heads = min(triton.next_power_of_2(num_heads), max(1, 1024 // block))
    return Tile({"HEADS": heads, "HALF": block})


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    num_tokens, num_heads, head_dim = x.shape
    half = cos.shape[-1]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    assert x.stride(-1) == 1
    assert cos.is_contiguous()
    assert sin.is_contiguous()
    if not num_tokens:
        return out
    sizes = tile(num_heads, half)
    grid = (num_tokens, triton.cdiv(num_heads, sizes.constants["HEADS"]))
    rotary_kernel[grid](
        x,
        cos,
        sin,
        out,
        num_heads,
        head_dim,
        half,
        x.stride(0),
        x.stride(1),
        REST=2 * half < head_dim,
        **sizes.launch(),
    )
    return out


def variants() -> Iterator[Variant]:
    for dtype, (num_heads, half, rest) in product(
        FLOATS, ((12, 32, False), (40, 64, False), (40, 32, True), (24, 128, False))
    ):
        pointer = f"*{dtype}:16"
        yield Variant(
            kernel=rotary_kernel,
            dtype=dtype,
            tile=tile(num_heads, half),
            arguments={
                "x_ptr": pointer,
                "cos_ptr": pointer,
                "sin_ptr": pointer,
                "out_ptr": pointer,
                "num_heads": "i32",
                "head_dim": "i32:16",
                "half": "i32:16",
                "stride_token": "i32:16",
                "stride_head": "i32:16",
            },
            constants={"REST": rest},
        )


def _prepare(num_tokens: int, num_heads: int, head_dim: int, device: torch.device) -> Call:
    x = torch.randn(num_tokens, num_heads, head_dim, dtype=torch.bfloat16, device=device)
    cos, sin = torch.randn(2, num_tokens, 1, head_dim // 2, dtype=torch.bfloat16, device=device)
    return lambda: rotary(x, cos, sin)


def workloads() -> Iterator[Workload]:
    for num_tokens in (64, 8192):
        num_heads, head_dim = 40, 128
        yield Workload(
            op="rotary",
            size=f"{num_tokens} tokens, {num_heads} heads of {head_dim}",
            dtype="bf16",
            bytes=2 * num_tokens * head_dim * (2 * num_heads + 1),
            flops=3 * num_tokens * num_heads * head_dim,
            unit="vector",
            prepare=partial(_prepare, num_tokens, num_heads, head_dim),
        )
