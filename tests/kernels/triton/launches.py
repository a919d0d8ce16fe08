"""Calls every op as on an H100, with a driver that has no GPU: each launch goes as far as its machine code.

Exits with 1, and says why, if a launch is of no variant that `make kernels` compiles.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from octavo.kernels import triton
from octavo.kernels.cache import Int8Cache
from octavo.kernels.triton import architectures, attention, experts, quantized
from octavo.kernels.triton.compile import all_variants
from tests.kernels.test_sampling import batch

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128

Launch = tuple[str, dict[str, str], dict[str, Any], int]
"""Kernel, arguments as a `Variant` has them, constants, warps."""


class NoGPU:
    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def recorded(launches: list[Launch]) -> Any:
    """In place of `JITFunction.run`: compiles, and notes what."""
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        source = kernel.src
        types = {}
        for i, (name, kind) in enumerate(source.signature.items()):
            if kind != "constexpr":
                types[name] = f"{kind}:16" if source.attrs.get((i,)) else kind
        constants = {self.arg_names[path[0]]: value for path, value in source.constants.items()}
        launches.append((self.__name__, types, constants, kernel.metadata.num_warps))
        return kernel

    return compile_only


def call_every_op() -> None:
    x = torch.zeros(20, 1024, dtype=torch.bfloat16)
    triton.add_rms_norm(x, x.clone(), x[0], 1e-6)
    packed = torch.zeros(20, HEADS + 2 * KV_HEADS, HEAD_DIM, dtype=torch.bfloat16)
    triton.rms_norm(packed[:, :HEADS], packed[0, 0], 1e-6)
    turns = torch.zeros(20, 1, HEAD_DIM // 2, dtype=torch.bfloat16)
    rotated = triton.rotary(packed[:, : HEADS + KV_HEADS], turns, turns)
    for activation in ("silu", "gelu", "gelu_tanh"):
        triton.gated_activation(x, activation)
    shape = (64, KV_HEADS, 16, HEAD_DIM)
    whole = torch.zeros(shape, dtype=torch.bfloat16)
    quantized = Int8Cache(torch.zeros(shape, dtype=torch.int8), torch.zeros(shape[:3]))
    # A prompt and a decode; of the table's width depends where in memory the numbers lie.
    for context in (600, 601 + 16):
        positions = np.append(np.arange(19), context - 1).astype(np.int32)
        lens, tables = np.array([19, 1], np.int32), np.zeros((2, -(-context // 16)), np.int32)
        contexts = np.array([19, context], np.int32)
        plan = triton.plan_attention(lens, contexts, positions, tables, 16, KV_HEADS, x)
        for cache in (whole, quantized):
            triton.store_kv(rotated[:, HEADS:], packed[:, -KV_HEADS:], cache, cache, plan)
            triton.paged_attention(rotated[:, :HEADS], cache, cache, plan, 0.1, None)
    call_products(x)
    attention.multiprocessors = lambda: 1
    triton.paged_attention(rotated[:, :HEADS], whole, whole, plan, 0.1, 100)


def call_products(x: torch.Tensor) -> None:
    few, more = x[:5], [torch.zeros(count, 1024, dtype=torch.bfloat16) for count in (40, 100, 300)]
    weight = torch.zeros(512, 1024, dtype=torch.bfloat16)
    forms = [("fp8", None), ("int8", None), ("int8", 128), ("int4", 64)]
    for form, group in forms:
        layer = triton.pack_quantized(weight, weight[:, 0].contiguous(), form, group)
        for rows in (few, x, *more):
            triton.quantized_linear(rows, layer)
    weights = torch.zeros(8, 512, 1024, dtype=torch.bfloat16), torch.zeros(8, 1024, 256, dtype=torch.bfloat16)
    triton.mixture_of_experts(x, *weights, *triton.route(x[:, :8].contiguous(), 2, True), "silu")
    for rank in (8, 16):
        a, b = x.new_zeros(4, rank, 1024), x.new_zeros(4, 512, rank)
        plan = triton.plan_adapters(np.arange(5, dtype=np.int32) % 4, 4, few)
        triton.add_adapters(x.new_zeros(5, 512), few, a, b, plan)
    for masks in (None, np.zeros((1, 4008), np.uint32)):
        rows = batch(3, top_k=5, mask_rows=[] if masks is None else [1], masks=masks)
        triton.sample(x.new_zeros(3, 128_256), rows)


def main() -> int:
    driver.set_active(NoGPU())
    for module in (architectures, attention, experts, quantized):
        module.current_architecture = lambda: "sm_90"  # type: ignore[attr-defined]
    launches: list[Launch] = []
    JITFunction.run = recorded(launches)
    call_every_op()
    known = [
        (variant.name, dict(variant.arguments), variant.all_constants, variant.tile.num_warps)
        for variant in all_variants()
    ]
    strange = [launch for launch in launches if launch not in known]
    for launch in strange:
        print(*launch)
    print(f"{len(launches)} launches of {len({launch[0] for launch in launches})} kernels")
    return 1 if strange else 0


if __name__ == "__main__":
    sys.exit(main())
