"""A gate's activation times what it gates. Contract: `octavo.kernels.ops.Ops.gated_activation`."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.kernels.triton.arithmetic import tanh
from octavo.kernels.triton.registry import FLOATS, Tile, Variant, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from octavo.kernels.triton.registry import Call

ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2}
TILE = Tile({"BLOCK": 1024})


@triton.jit
def activate(gate, ACTIVATION: tl.constexpr):
    if ACTIVATION == 0:
        active = gate / (1.0 + tl.exp(-gate))
    elif ACTIVATION == 1:
        active = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    else:
        active = 0.5 * gate * (1.0 + tanh(0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)))
    return active


@triton.jit
def gated_activation_kernel(x_ptr, out_ptr, n, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    """A program computes BLOCK elements of one row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < n
    gate = tl.load(x_ptr + row * 2 * n + columns, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * 2 * n + n + columns, mask=mask, other=0.0).to(tl.float32)
    active = activate(gate, ACTIVATION)
    tl.store(out_ptr + row * n + columns, (active * up).to(out_ptr.dtype.element_ty), mask=mask)


def gated_activation(x: Tensor, activation: str) -> Tensor:
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}")
    num_rows, n = x.shape[0], x.shape[1] // 2
    out = torch.empty(num_rows, n, dtype=x.dtype, device=x.device)
    assert x.is_contiguous()
    if num_rows:
        grid = (num_rows, triton.cdiv(n, TILE.constants["BLOCK"]))
        gated_activation_kernel[grid](x, out, n, ACTIVATION=ACTIVATIONS[activation], **TILE.launch())
    return out


def variants() -> Iterator[Variant]:
    for dtype, activation in product(FLOATS, ACTIVATIONS.values()):
        yield Variant(
            kernel=gated_activation_kernel,
            dtype=dtype,
            tile=TILE,
            arguments={"x_ptr": f"*{dtype}:16", "out_ptr": f"*{dtype}:16", "n": "i32:16"},
            constants={"ACTIVATION": activation},
        )


def _prepare(num_tokens: int, n: int, device: torch.device) -> Call:
    x = torch.randn(num_tokens, 2 * n, dtype=torch.bfloat16, device=device)
    return lambda: gated_activation(x, "silu")


def workloads() -> Iterator[Workload]:
    n = 14336
    for num_tokens in (64, 8192):
        yield Workload(
            op="gated_activation",
            size=f"silu, {num_tokens} tokens, {n} wide",
            dtype="bf16",
            bytes=2 * 3 * num_tokens * n,
            flops=5 * num_tokens * n,
            unit="vector",
            prepare=partial(_prepare, num_tokens, n),
        )
