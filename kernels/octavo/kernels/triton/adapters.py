"""Low-rank adapters of many requests in one batch: two launches a layer, whatever they mix.
Contracts: `octavo.kernels.ops.Ops`.

Sources: Punica (Chen et al., 2023, section 4); S-LoRA (Sheng et al., 2023, section 5).
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from octavo.kernels.triton.arithmetic import dot
from octavo.kernels.triton.grouping import Groups, group_rows
from octavo.kernels.triton.products import share_of_split
from octavo.kernels.triton.quantized import splits
from octavo.kernels.triton.registry import FLOATS, Tile, Variant, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from torch import Tensor

    from octavo.kernels.triton.registry import Call

HIGHEST_RANK = 64


@triton.jit(do_not_specialize=["num_rows"])
def shrink_kernel(
    x_ptr,
    a_ptr,
    partial_ptr,
    order_ptr,
    owners_ptr,
    num_rows,
    rank,
    n,
    stride,
    TOKENS: tl.constexpr,
    RANK: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """partial[split, row] = a of the row's adapter · the split's share of x[row], float32 [.., .., RANK]."""
    block = tl.program_id(0)
    owner = tl.load(owners_ptr + block)
    if owner < 0:
        return
    rows = tl.load(order_ptr + block * TOKENS + tl.arange(0, TOKENS))
    ranks = tl.arange(0, RANK)
    inputs = tl.arange(0, INPUTS)
    # Padding reads the first row again, and stores nothing.
    read = tl.where(rows < num_rows, rows, tl.load(order_ptr + block * TOKENS))
    x_rows = x_ptr + read.to(tl.int64)[None, :] * stride
    a_rows = a_ptr + (owner.to(tl.int64) * rank + tl.minimum(ranks, rank - 1))[:, None] * n
    begin, end = share_of_split(n, INPUTS)
    acc = tl.zeros((RANK, TOKENS), tl.float32)
    for start in range(begin, end, INPUTS):
        at = start + inputs
        x = tl.load(x_rows + at[:, None], mask=(at < end)[:, None], other=0.0)
        a = tl.load(a_rows + at[None, :], mask=(at < end)[None, :], other=0.0)
        acc += dot(a, x)
    to = (tl.program_id(1).to(tl.int64) * num_rows + rows)[None, :] * RANK + ranks[:, None]
    tl.store(partial_ptr + to, acc, mask=(rows < num_rows)[None, :])


@triton.jit(do_not_specialize=["num_rows", "num_splits"])
def expand_kernel(
    partial_ptr,
    b_ptr,
    out_ptr,
    order_ptr,
    owners_ptr,
    num_rows,
    rank,
    m,
    stride,
    num_splits,
    TOKENS: tl.constexpr,
    RANK: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """out[row] += b of the row's adapter · the sum of its parts. No two programs have a row in common."""
    block = tl.program_id(1)
    owner = tl.load(owners_ptr + block)
    if owner < 0:
        return
    rows = tl.load(order_ptr + block * TOKENS + tl.arange(0, TOKENS))
    ranks = tl.arange(0, RANK)
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    shrunk = tl.zeros((RANK, TOKENS), tl.float32)
    for split in range(num_splits):
        at = (split * num_rows + rows)[None, :] * RANK + ranks[:, None]
        shrunk += tl.load(partial_ptr + at, mask=(rows < num_rows)[None, :], other=0.0)
    last = tl.minimum(outputs, m - 1)
    b_rows = b_ptr + (owner.to(tl.int64) * m + last)[:, None] * rank
    b = tl.load(b_rows + ranks[None, :], mask=(ranks < rank)[None, :], other=0.0)
    product = dot(b, shrunk.to(b.dtype))
    mask = (outputs < m)[:, None] & (rows < num_rows)[None, :]
    to = out_ptr + rows.to(tl.int64)[None, :] * stride + outputs[:, None]
    product += tl.load(to, mask=mask, other=0.0).to(tl.float32)
    tl.store(to, product.to(out_ptr.dtype.element_ty), mask=mask)


def plan_adapters(adapters: np.ndarray, num_adapters: int, like: Tensor) -> Groups:
    on_device = torch.from_numpy(adapters).to(like.device, non_blocking=True)
    return group_rows(on_device, num_adapters, 16 if len(adapters) <= 16 * num_adapters else 64)


def add_adapters(output: Tensor, x: Tensor, a: Tensor, b: Tensor, plan: Groups) -> None:
    _add(output, x, a, b, plan, None)


def _add(output: Tensor, x: Tensor, a: Tensor, b: Tensor, plan: Groups, num_splits: int | None) -> None:
    """num_splits: how many programs share the inputs of a block; None for as many as fill the GPU."""
    rank, n, m, num_rows = a.shape[1], a.shape[2], b.shape[1], len(x)
    if rank > HIGHEST_RANK:
        raise ValueError(f"rank: adapters have at most {HIGHEST_RANK} (got {rank})")
    assert x.stride(1) == output.stride(1) == 1, "a row's elements lie side by side"
    num_blocks = len(plan.owners)
    if not num_blocks:
        return
    shrinking, expanding = shrink_tile(plan.rows, rank, x.element_size()), expand_tile(plan.rows, rank)
    if num_splits is None:
        num_splits = splits(num_blocks, triton.cdiv(n, shrinking.constants["INPUTS"]))
    partial = torch.empty(
        (num_splits, num_rows, shrinking.constants["RANK"]), dtype=torch.float32, device=x.device
    )
    shrink_kernel[(num_blocks, num_splits)](
        x, a, partial, plan.order, plan.owners, num_rows, rank, n, x.stride(0), **shrinking.launch()
    )
    expand_kernel[(triton.cdiv(m, expanding.constants["OUTPUTS"]), num_blocks)](
        partial, b, output, plan.order, plan.owners, num_rows, rank, m, output.stride(0), num_splits,
        **expanding.launch(),
    )  # fmt: skip


def shrink_tile(rows: int, rank: int, itemsize: int) -> Tile:
    inputs = (256 if rows == 16 else 128) // itemsize
    return Tile({"TOKENS": rows, "RANK": _whole(rank), "INPUTS": inputs}, num_warps=4, num_stages=2)


def expand_tile(rows: int, rank: int) -> Tile:
    return Tile({"TOKENS": rows, "RANK": _whole(rank), "OUTPUTS": 128 if rows == 16 else 64}, 4, 2)


def _whole(rank: int) -> int:
    return max(16, int(triton.next_power_of_2(rank)))


def variants() -> Iterator[Variant]:
    for dtype, rows, rank in product(FLOATS, (16, 64), (8, 16, 32, 64)):
        pointer, hot = f"*{dtype}:16", dtype != "fp32"
        index = {
            "order_ptr": "*i32:16",
            "owners_ptr": "*i32:16",
            "num_rows": "i32",
            "rank": "i32" if rank % 16 else "i32:16",
            "stride": "i32:16",
        }
        yield Variant(
            kernel=shrink_kernel,
            dtype=dtype,
            tile=shrink_tile(rows, rank, 4 if dtype == "fp32" else 2),
            arguments={"x_ptr": pointer, "a_ptr": pointer, "partial_ptr": "*fp32:16", "n": "i32:16", **index},
            hot=hot,
        )
        yield Variant(
            kernel=expand_kernel,
            dtype=dtype,
            tile=expand_tile(rows, rank),
            arguments={
                "partial_ptr": "*fp32:16",
                "b_ptr": pointer,
                "out_ptr": pointer,
                "m": "i32:16",
                "num_splits": "i32",
                **index,
            },
            hot=hot,
        )


def workloads() -> Iterator[Workload]:
    n = m = 4096
    rank, num_adapters = 16, 32
    for num_rows in (64, 8192):

        def prepare(device: torch.device, num_rows: int = num_rows) -> Call:
            x, output = torch.randn(2, num_rows, n, dtype=torch.bfloat16, device=device)
            a, b = torch.randn(2, num_adapters, rank, n, dtype=torch.bfloat16, device=device) / 64
            plan = plan_adapters((torch.arange(num_rows) % num_adapters).int().numpy(), num_adapters, x)
            b = b.transpose(1, 2).contiguous()
            return lambda: add_adapters(output, x, a, b, plan)

        yield Workload(
            op="add_adapters",
            size=f"{num_rows} × {n} to {m}, {num_adapters} adapters of rank {rank}",
            dtype="bf16",
            bytes=2 * num_rows * (n + 2 * m) + 2 * num_adapters * rank * (n + m),
            flops=2 * num_rows * rank * (n + m),
            unit="bf16",
            prepare=prepare,
        )
