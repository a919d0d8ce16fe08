"""RMS norm of rows, with the residual added first where there is one. Contracts: `octavo.kernels.ops.Ops`."""

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

WIDEST = 16384
"""Elements of a row that a program holds in registers."""


@triton.jit(do_not_specialize=["num_rows", "rows_inner"])
def rms_norm_kernel(
    x_ptr,
    delta_ptr,
    weight_ptr,
    out_ptr,
    num_rows,
    rows_inner,
    stride_outer,
    stride_inner,
    n,
    eps,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program norms ROWS rows. Row i of x begins at (i // rows_inner) · stride_outer + (i % rows_inner) ·
    stride_inner; delta and out are dense."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    mask = (rows < num_rows)[:, None] & (columns < n)[None, :]
    starts = (rows // rows_inner).to(tl.int64) * stride_outer + rows % rows_inner * stride_inner
    dense = rows.to(tl.int64)[:, None] * n + columns[None, :]
    x = tl.load(x_ptr + starts[:, None] + columns[None, :], mask=mask, other=0.0)
    if ADD:
        delta = tl.load(delta_ptr + dense, mask=mask, other=0.0)
        x = (x.to(tl.float32) + delta.to(tl.float32)).to(x_ptr.dtype.element_ty)
        tl.store(x_ptr + starts[:, None] + columns[None, :], x, mask=mask)
    weight = tl.load(weight_ptr + columns, mask=columns < n, other=0.0)
    x = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 1) / n + eps)
    y = x * scale[:, None] * weight.to(tl.float32)[None, :]
    tl.store(out_ptr + dense, y.to(out_ptr.dtype.element_ty), mask=mask)


def tile(n: int) -> Tile:
    """Of rows of n elements: about 2,048 to a program, and 16 a thread at most, which keeps them in
    registers."""
    block = triton.next_power_of_2(n)
    rows = max(1, min(32, 2048 // block))
    return Tile({"ROWS": rows, "BLOCK": block}, num_warps=max(4, min(16, rows * block // 512)))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, None, weight, out, eps)
    return out


def add_rms_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, delta.contiguous(), weight, out, eps)
    return out


def _launch(x: Tensor, delta: Tensor | None, weight: Tensor, out: Tensor, eps: float) -> None:
    n = x.shape[-1]
    if n > WIDEST:
        raise ValueError(f"rms_norm: rows have at most {WIDEST} elements (got {n})")
    assert x.stride(-1) == 1, "a row's elements lie side by side"
    rows_inner, stride_inner = (x.shape[1], x.stride(1)) if x.dim() == 3 else (1, 0)
    num_rows = x.numel() // n
    if not num_rows:
        return
    sizes = tile(n)
    rms_norm_kernel[(triton.cdiv(num_rows, sizes.constants["ROWS"]),)](
        x,
        x if delta is None else delta,
        weight,
        out,
        num_rows,
        rows_inner,
        x.stride(0),
        stride_inner,
        n,
        eps,
        ADD=delta is not None,
        **sizes.launch(),
    )


def variants() -> Iterator[Variant]:
    heads, rows = (64, 128, 256), (1024, 2048, 4096, 8192, 16384)
    for dtype, (n, add) in product(FLOATS, [(n, False) for n in heads + rows] + [(n, True) for n in rows]):
        pointer = f"*{dtype}:16"
        yield Variant(
            kernel=rms_norm_kernel,
            dtype=dtype,
            tile=tile(n),
            arguments={
                "x_ptr": pointer,
                "delta_ptr": pointer,
                "weight_ptr": pointer,
                "out_ptr": pointer,
                "num_rows": "i32",
                "rows_inner": "i32",
                "stride_outer": "i32:16",
                "stride_inner": "i32:16",
                "n": "i32:16",
                "eps": "fp32",
            },
            constants={"ADD": add},
        )


def _prepare(rows: int, n: int, device: torch.device) -> Call:
    x, delta = torch.randn(2, rows, n, dtype=torch.bfloat16, device=device)
    weight = torch.randn(n, dtype=torch.bfloat16, device=device)
    return lambda: add_rms_norm(x, delta, weight, 1e-6)


def workloads() -> Iterator[Workload]:
    for rows, n in ((64, 4096), (8192, 4096), (8192, 8192)):
        yield Workload(
            op="add_rms_norm",
            size=f"{rows} rows of {n}",
            dtype="bf16",
            bytes=2 * (4 * rows * n + n),
            flops=5 * rows * n,
            unit="vector",
            prepare=partial(_prepare, rows, n),
        )
