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
from octavo.kernels.triton import architectures, attention
from octavo.kernels.triton.compile import all_variants

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
    attention.multiprocessors = lambda: 1
    triton.paged_attention(rotated[:, :HEADS], whole, whole, plan, 0.1, 100)


def main() -> int:
    driver.set_active(NoGPU())
    architectures.current_architecture = attention.current_architecture = lambda: "sm_90"
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
