"""Which experts a token goes to. Contract: `octavo.kernels.ops.Ops.route`."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from octavo.kernels.triton.registry import FLOATS, Tile, Variant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@triton.jit(do_not_specialize=["num_tokens", "num_experts", "stride"])
def route_kernel(
    logits_ptr,
    weights_ptr,
    experts_ptr,
    num_tokens,
    num_experts,
    stride,
    TOP_K: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    ROWS: tl.constexpr,
    EXPERTS: tl.constexpr,
):
    """A program routes ROWS tokens: the likeliest expert is taken TOP_K times, the first of equal ones."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    experts = tl.arange(0, EXPERTS)
    inside = (rows < num_tokens)[:, None] & (experts < num_experts)[None, :]
    at = rows.to(tl.int64)[:, None] * stride + experts[None, :]
    logits = tl.load(logits_ptr + at, mask=inside, other=0.0).to(tl.float32)
    logits = tl.where((experts < num_experts)[None, :], logits, -float("inf"))
    likeliness = tl.exp(logits - tl.max(logits, 1)[:, None])
    total = tl.sum(likeliness, 1)
    likeliness = tl.where((experts < num_experts)[None, :], likeliness, -1.0)
    if RENORMALIZE:
        left = likeliness
        total = tl.zeros((ROWS,), tl.float32)
        for _ in range(TOP_K):
            total += tl.max(left, 1)
            left = tl.where(experts[None, :] == tl.argmax(left, 1)[:, None], -1.0, left)
    for rank in range(TOP_K):
        best = tl.argmax(likeliness, 1)
        to = rows.to(tl.int64) * TOP_K + rank
        tl.store(weights_ptr + to, tl.max(likeliness, 1) / total, mask=rows < num_tokens)
        tl.store(experts_ptr + to, best, mask=rows < num_tokens)
        likeliness = tl.where(experts[None, :] == best[:, None], -1.0, likeliness)


def route(logits: Tensor, top_k: int, renormalize: bool) -> tuple[Tensor, Tensor]:
    num_tokens, num_experts = logits.shape
    if not 1 <= top_k <= num_experts:
        raise ValueError(f"top_k is 1 to the number of experts, {num_experts} (got {top_k})")
    weights = torch.empty((num_tokens, top_k), dtype=torch.float32, device=logits.device)
    experts = torch.empty((num_tokens, top_k), dtype=torch.int32, device=logits.device)
    sizes = tile(num_experts)
    if num_tokens:
        route_kernel[(triton.cdiv(num_tokens, sizes.constants["ROWS"]),)](
            logits, weights, experts, num_tokens, num_experts, logits.stride(0),
            TOP_K=top_k, RENORMALIZE=renormalize, **sizes.launch(),
        )  # fmt: skip
    return weights, experts


def tile(num_experts: int) -> Tile:
    block = triton.next_power_of_2(num_experts)
    return Tile({"ROWS": max(1, min(32, 1024 // block)), "EXPERTS": block})


def variants() -> Iterator[Variant]:
    for dtype, (num_experts, top_k), renormalize in product(
        FLOATS, ((8, 2), (64, 8), (128, 8), (256, 8)), (False, True)
    ):
        yield Variant(
            kernel=route_kernel,
            dtype=dtype,
            tile=tile(num_experts),
            arguments={
                "logits_ptr": f"*{dtype}:16",
                "weights_ptr": "*fp32:16",
                "experts_ptr": "*i32:16",
                "num_tokens": "i32",
                "num_experts": "i32",
                "stride": "i32",
            },
            constants={"TOP_K": top_k, "RENORMALIZE": renormalize},
        )


def workloads() -> tuple[()]:
    """Its time is that of a launch."""
    return ()
