"""Feed-forward by experts: one launch for all of them. Contracts: `octavo.kernels.ops.Ops`."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from octavo.kernels.triton.activation import ACTIVATIONS, activate
from octavo.kernels.triton.architectures import current_architecture
from octavo.kernels.triton.arithmetic import dot
from octavo.kernels.triton.grouping import Groups, group_rows
from octavo.kernels.triton.products import place
from octavo.kernels.triton.registry import FLOATS, Tile, Variant, Workload, grouped_by_tile
from octavo.kernels.triton.routing import route

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from octavo.kernels.triton.registry import Call

ADDING = Tile({"BLOCK": 1024})


@triton.jit(do_not_specialize=["num_rows", "num_blocks"])
def expert_product_kernel(
    x_ptr,
    weight_ptr,
    out_ptr,
    row_scale_ptr,
    order_ptr,
    owners_ptr,
    num_rows,
    num_blocks,
    m,
    n,
    stride,
    SHARED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    TOKENS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """out[row] = the weights of the row's owner · x[row // SHARED]. ACTIVATION: of the first m of 2 · m
    weights, whose product then multiplies that of the others; or -1 for m weights, and a product scaled by
    row."""
    block, output_tile = place(tl.program_id(0), num_blocks, tl.cdiv(m, OUTPUTS))
    owner = tl.load(owners_ptr + block)
    if owner < 0:
        return
    rows = tl.load(order_ptr + block * TOKENS + tl.arange(0, TOKENS))
    outputs = output_tile * OUTPUTS + tl.arange(0, OUTPUTS)
    inputs = tl.arange(0, INPUTS)
    # Padding reads the first row again, and stores nothing.
    read = tl.where(rows < num_rows, rows, tl.load(order_ptr + block * TOKENS))
    x_rows = x_ptr + (read // SHARED).to(tl.int64)[None, :] * stride
    last = tl.minimum(outputs, m - 1).to(tl.int64)
    acc = tl.zeros((OUTPUTS, TOKENS), tl.float32)
    if ACTIVATION < 0:
        weight_rows = weight_ptr + (owner.to(tl.int64) * m + last)[:, None] * n
        for start in range(0, n, INPUTS):
            at = start + inputs
            x = tl.load(x_rows + at[:, None], mask=(at < n)[:, None], other=0.0)
            weight = tl.load(weight_rows + at[None, :], mask=(at < n)[None, :], other=0.0)
            acc += dot(weight, x)
        acc *= tl.load(row_scale_ptr + rows, mask=rows < num_rows, other=0.0)[None, :]
    else:
        gate_rows = weight_ptr + (owner.to(tl.int64) * 2 * m + last)[:, None] * n
        up_rows = weight_ptr + ((owner.to(tl.int64) * 2 + 1) * m + last)[:, None] * n
        up = tl.zeros((OUTPUTS, TOKENS), tl.float32)
        for start in range(0, n, INPUTS):
            at = start + inputs
            x = tl.load(x_rows + at[:, None], mask=(at < n)[:, None], other=0.0)
            weight = tl.load(gate_rows + at[None, :], mask=(at < n)[None, :], other=0.0)
            acc += dot(weight, x)
            weight = tl.load(up_rows + at[None, :], mask=(at < n)[None, :], other=0.0)
            up += dot(weight, x)
        acc = activate(acc, ACTIVATION) * up
    mask = (outputs < m)[:, None] & (rows < num_rows)[None, :]
    to = out_ptr + rows.to(tl.int64)[None, :] * m + outputs[:, None]
    tl.store(to, acc.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def add_ranks_kernel(x_ptr, experts_ptr, out_ptr, size, n, TOP_K: tl.constexpr, BLOCK: tl.constexpr):
    """x: [num_tokens, TOP_K, n] → out [num_tokens, n], of size elements. Rows of no expert count nothing."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for rank in range(TOP_K):
        row = at // n * TOP_K + rank
        mask = (at < size) & (tl.load(experts_ptr + row, mask=at < size, other=-1) >= 0)
        total += tl.load(x_ptr + row * n + at % n, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=at < size)


def mixture_of_experts(
    x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, experts: Tensor, activation: str
) -> Tensor:
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}")
    num_tokens, n = x.shape
    num_experts, m = len(gate_up), down.shape[2]
    top_k = experts.shape[1]
    out = torch.empty_like(x)
    if not num_tokens:
        return out
    num_rows, architecture = num_tokens * top_k, current_architecture()
    gating = tile(num_rows, num_experts, x.element_size(), True, architecture)
    plain = tile(num_rows, num_experts, x.element_size(), False, architecture)
    groups = group_rows(experts.view(-1), num_experts, plain.constants["TOKENS"])
    hidden = torch.empty((num_rows, m), dtype=x.dtype, device=x.device)
    _multiply(x, gate_up, hidden, weights, groups, m, top_k, ACTIVATIONS[activation], gating)
    parts = torch.empty((num_rows, n), dtype=x.dtype, device=x.device)
    _multiply(hidden, down, parts, weights, groups, n, 1, -1, plain)
    add_ranks_kernel[(triton.cdiv(out.numel(), ADDING.constants["BLOCK"]),)](
        parts, experts, out, out.numel(), n, TOP_K=top_k, **ADDING.launch()
    )
    return out


def _multiply(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    weights: Tensor,
    groups: Groups,
    m: int,
    shared: int,
    activation: int,
    sizes: Tile,
) -> None:
    num_blocks = len(groups.owners)
    assert x.stride(1) == 1, "a row's elements lie side by side"
    assert weight.is_contiguous()
    expert_product_kernel[(num_blocks * triton.cdiv(m, sizes.constants["OUTPUTS"]),)](
        x, weight, out, weights, groups.order, groups.owners, len(out), num_blocks, m, x.shape[1],
        x.stride(0), SHARED=shared, ACTIVATION=activation, **sizes.launch(),
    )  # fmt: skip


def tile(num_rows: int, num_experts: int, itemsize: int, gated: bool, architecture: str) -> Tile:
    """By the rows that an expert has on average: most of a block should not be padding. All products of a
    layer have the same TOKENS."""
    each = num_rows / num_experts
    tokens = 16 if each <= 16 else 64 if each <= 128 else 128
    inputs = (256 if tokens == 16 and not gated else 128) // itemsize
    stages = 2 if architecture == "gfx942" else 3
    # On an H200 the fastest of eight for many tokens, by a fifth.
    outputs = 128 if tokens == 128 and itemsize == 2 and architecture == "sm_90" else 64
    return Tile({"TOKENS": tokens, "OUTPUTS": outputs, "INPUTS": inputs}, 8 if tokens == 128 else 4, stages)


def variants() -> Iterator[Variant]:
    for dtype, top_k in product(FLOATS, (2, 4, 8)):
        yield Variant(
            kernel=add_ranks_kernel,
            dtype=dtype,
            tile=ADDING,
            arguments={
                "x_ptr": f"*{dtype}:16",
                "experts_ptr": "*i32:16",
                "out_ptr": f"*{dtype}:16",
                "size": "i32:16",
                "n": "i32:16",
            },
            constants={"TOP_K": top_k},
        )
    for dtype, num_rows, activation in product(FLOATS, (8, 512, 8192), (-1, *ACTIVATIONS.values())):
        itemsize = 4 if dtype == "fp32" else 2

        def tiles(
            architecture: str,
            num_rows: int = num_rows,
            itemsize: int = itemsize,
            gated: bool = activation >= 0,
        ) -> list[Tile]:
            return [tile(num_rows, 8, itemsize, gated, architecture)]

        for shared, (sizes, architectures) in product(
            (2, 8) if activation >= 0 else (1,), grouped_by_tile(tiles)
        ):
            yield Variant(
                kernel=expert_product_kernel,
                dtype=dtype,
                tile=sizes,
                arguments={
                    "x_ptr": f"*{dtype}:16",
                    "weight_ptr": f"*{dtype}:16",
                    "out_ptr": f"*{dtype}:16",
                    "row_scale_ptr": "*fp32:16",
                    "order_ptr": "*i32:16",
                    "owners_ptr": "*i32:16",
                    "num_rows": "i32",
                    "num_blocks": "i32",
                    "m": "i32:16",
                    "n": "i32:16",
                    "stride": "i32:16",
                },
                constants={"SHARED": shared, "ACTIVATION": activation},
                hot=dtype != "fp32",
                architectures=architectures,
            )


def workloads() -> Iterator[Workload]:
    num_experts, top_k, n, m = 128, 8, 2048, 768  # Qwen3-30B-A3B
    for num_tokens in (16, 8192):

        def prepare(device: torch.device, num_tokens: int = num_tokens) -> Call:
            x = torch.randn(num_tokens, n, dtype=torch.bfloat16, device=device)
            gate_up = torch.randn(num_experts, 2 * m, n, dtype=torch.bfloat16, device=device) / 32
            down = torch.randn(num_experts, n, m, dtype=torch.bfloat16, device=device) / 32
            weights, experts = route(torch.randn(num_tokens, num_experts, device=device), top_k, True)
            return lambda: mixture_of_experts(x, gate_up, down, weights, experts, "silu")

        # With 16 tokens about 128 · (1 - (1 - 1/16)^16) experts have any.
        touched = num_experts * (1 - (1 - top_k / num_experts) ** num_tokens)
        yield Workload(
            op="mixture_of_experts",
            size=f"{num_tokens} × {n}, {top_k} of {num_experts} experts of {m}",
            dtype="bf16",
            bytes=int(touched * 3 * m * n * 2) + 4 * num_tokens * n,
            flops=2 * num_tokens * top_k * 3 * m * n,
            unit="bf16",
            prepare=prepare,
        )
