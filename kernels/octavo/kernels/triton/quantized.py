"""Linear layers with weights of 8 or 4 bits. Contracts: `octavo.kernels.ops.Ops`; kernels: `products.py`."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch
import triton

from octavo.kernels.reference import quantized as reference
from octavo.kernels.triton import products
from octavo.kernels.triton.architectures import ARCHITECTURES, current_architecture, multiprocessors
from octavo.kernels.triton.registry import FLOATS, Tile, Variant, Workload, grouped_by_tile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from octavo.kernels.reference.quantized import QuantizedLinear
    from octavo.kernels.triton.registry import Call

ROUNDING = Tile({"BLOCK": 2048}, num_warps=8)
ADDING = Tile({"BLOCK": 1024})
WIDENING = Tile({"OUTPUTS": 16, "INPUTS": 256})
MOST_UNPACKED = 128
"""Tokens up to which weights of 4 bits are widened as they are multiplied; for more of them it is done once,
into memory, since every tile of tokens would unpack them again."""
FP8 = {"sm_90": "fp8e4nv", "sm_100": "fp8e4nv", "gfx942": "fp8e4b8"}
"""Triton's name of the float8 that an architecture multiplies; the others widen weights of fp8e4nv."""
NAMES = {torch.int8: "int8", torch.float8_e4m3fn: "fp8e4nv", torch.float8_e4m3fnuz: "fp8e4b8"}
RANGES = {"int8": (127.0, 0.0), "fp8e4nv": (448.0, 2.0**-6), "fp8e4b8": (240.0, 2.0**-7)}
"""By Triton's name, the largest number and the least that is normal."""
GROUPS = (32, 64, 128)
OF_AN_A100 = 108
"""Multiprocessors that are assumed where there is no GPU."""


def pack_quantized(
    weight: Tensor, bias: Tensor | None, form: str, group: int | None = None
) -> QuantizedLinear:
    """fp8 becomes fp8_weights where the GPU has no products of fp8."""
    known = FP8.get(current_architecture())
    if form == "fp8" and known is None:
        form = "fp8_weights"
    if form == "fp8" and known == "fp8e4b8":
        return reference.pack_quantized(weight, bias, form, group, torch.float8_e4m3fnuz)
    return reference.pack_quantized(weight, bias, form, group)


def quantize_rows(x: Tensor, dtype: torch.dtype, transformed: bool = False) -> tuple[Tensor, Tensor]:
    """As `reference.quantized.quantize_rows`."""
    num_tokens, n = x.shape
    q = torch.empty((num_tokens, n), dtype=dtype, device=x.device)
    scale = torch.empty(num_tokens, dtype=torch.float32, device=x.device)
    largest, least = RANGES[NAMES[dtype]]
    products.quantize_rows_kernel[(num_tokens,)](
        x,
        q,
        scale,
        n,
        x.stride(0),
        LARGEST=largest,
        LEAST=least,
        TRANSFORMED=transformed,
        **ROUNDING.launch(),
    )
    return q, scale


def quantized_linear(x: Tensor, layer: QuantizedLinear) -> Tensor:
    return multiply(x, layer, None)


def multiply(x: Tensor, layer: QuantizedLinear, num_splits: int | None) -> Tensor:
    """num_splits: how many programs share the inputs of a tile; None for as many as fill the GPU."""
    num_tokens, n = x.shape
    m = layer.weight.shape[0]
    assert x.stride(1) == 1, "a row's elements lie side by side"
    if layer.form == "int4" and num_tokens > MOST_UNPACKED:
        return torch.nn.functional.linear(x, widen(layer, x.dtype), layer.bias)
    out = torch.empty((num_tokens, m), dtype=x.dtype, device=x.device)
    if not num_tokens:
        return out
    sizes = tile(layer.form, num_tokens, layer.group, current_architecture())
    num_tiles = triton.cdiv(num_tokens, sizes.constants["TOKENS"]) * triton.cdiv(
        m, sizes.constants["OUTPUTS"]
    )
    if num_splits is None:
        num_inputs = triton.cdiv(n, sizes.constants["INPUTS"])
        # Tiles of few tokens with weights of 4 bits mostly wait: more of them at once are faster.
        programs = 4 if layer.form == "int4" and sizes.constants["TOKENS"] <= 32 else 2
        num_splits = splits(num_tiles, num_inputs, programs)
    partial = None
    if num_splits > 1:
        partial = torch.empty((num_splits, num_tokens, m), dtype=torch.float32, device=x.device)
    target = out if partial is None else partial
    bias = x if layer.bias is None else layer.bias
    has_bias = int(layer.bias is not None)
    constants = {"SPLIT": num_splits > 1, **sizes.launch()}
    grid = (num_tiles, num_splits)
    match layer.form:
        case "int4":
            products.int4_product_kernel[grid](
                x, layer.weight, _pairs(layer), bias, target, num_tokens, has_bias, m, n, x.stride(0),
                GROUP=layer.group, **constants,
            )  # fmt: skip
        case "fp8_weights":
            products.fp8_product_kernel[grid](
                x, layer.weight.view(torch.uint8), layer.scale, bias, target, num_tokens, has_bias,
                m, n, x.stride(0),
                **constants,
            )  # fmt: skip
        case _:
            q, x_scale = quantize_rows(x, layer.weight.dtype, layer.transformed)
            products.rounded_product_kernel[grid](
                q, x_scale, layer.weight, layer.scale, bias, target, num_tokens, has_bias, m, n,
                GROUP=layer.group or 0, INTEGER=layer.form == "int8", **constants,
            )  # fmt: skip
    if partial is not None:
        size = num_tokens * m
        products.add_splits_kernel[(triton.cdiv(size, ADDING.constants["BLOCK"]),)](
            partial, bias, out, size, m, num_splits, has_bias, **ADDING.launch()
        )
    return out


def widen(layer: QuantizedLinear, dtype: torch.dtype) -> Tensor:
    """The weights of a layer of 4 bits, [m, n]."""
    m, n = layer.weight.shape[0], 8 * layer.weight.shape[1]
    out = torch.empty((m, n), dtype=dtype, device=layer.weight.device)
    rows, columns = WIDENING.constants["OUTPUTS"], WIDENING.constants["INPUTS"]
    products.widen_int4_kernel[(triton.cdiv(m, rows), triton.cdiv(n, columns))](
        layer.weight, _pairs(layer), out, m, n, GROUP=layer.group, **WIDENING.launch()
    )
    return out


def _pairs(layer: QuantizedLinear) -> Tensor:
    """Scales and minima as the kernels read them, int32 [m, n / group, 1]."""
    m, num_groups = layer.scale.shape
    both = layer.scale.as_strided((m, num_groups, 2), (2 * num_groups, 2, 1))
    return both.view(torch.int32)


def tile(form: str, num_tokens: int, group: int | None, architecture: str) -> Tile:
    """For int4, and for int8 and fp8 by row, of a handful the fastest on an H200."""
    warps = 4
    if form == "int4":
        tokens = 16 if num_tokens <= 16 else 32 if num_tokens <= 32 else 64 if num_tokens <= 64 else 128
        outputs, inputs, stages = (64, 64, 4) if tokens == 128 else (64, 128, 3)
    elif form == "fp8_weights" or group is not None:
        tokens = 16 if num_tokens <= 16 else 64 if num_tokens <= 256 else 128
        outputs, warps = (128, 8) if tokens == 128 else (64, 4)
        inputs, stages = (128, 4) if tokens == 16 else (64 if form == "fp8_weights" else 128, 3)
        if group is not None and group < inputs:
            # As many weights in a tile as else, so that what a tile costs is not more of each.
            outputs = outputs * inputs // group if tokens == 16 else outputs
            inputs, stages = group, stages + (tokens == 16)
    elif num_tokens <= 64:
        tokens = 16 if num_tokens <= 16 else 32 if num_tokens <= 32 else 64
        outputs, inputs, stages = (64, 128, 4) if tokens == 32 else (64, 256, 4 if tokens == 16 else 3)
    elif num_tokens <= 256:
        tokens, outputs, inputs, stages = 128, 64, 128, 4
    else:
        tokens, outputs, inputs, stages = 128, 128, 128, 3
        warps = 4 if architecture == "sm_90" else 8
    # AMD loads ahead into registers: more than the next tile costs what could run beside it.
    stages = 2 if architecture == "gfx942" else stages
    return Tile({"TOKENS": tokens, "OUTPUTS": outputs, "INPUTS": inputs}, warps, stages)


def splits(num_tiles: int, num_inputs: int, programs: int = 2) -> int:
    """So many that each multiprocessor has `programs`, as far as each of them has four tiles of inputs."""
    return max(1, min((multiprocessors() or OF_AN_A100) * programs // num_tiles, num_inputs // 4, 16))


def variants() -> Iterator[Variant]:
    yield from _rounding_variants()
    for dtype in FLOATS:
        yield Variant(
            kernel=products.add_splits_kernel,
            dtype=dtype,
            tile=ADDING,
            arguments={
                "partial_ptr": "*fp32:16",
                "bias_ptr": f"*{dtype}:16",
                "out_ptr": f"*{dtype}:16",
                "size": "i32:16",
                "m": "i32:16",
                "num_splits": "i32",
                "has_bias": "i32",
            },
        )
    for dtype, split in product(FLOATS, (False, True)):
        yield from _product_variants(dtype, split)
    for dtype, group in product(FLOATS, GROUPS):
        yield Variant(
            kernel=products.widen_int4_kernel,
            dtype=dtype,
            tile=WIDENING,
            arguments={
                "weight_ptr": "*i32:16",
                "scale_ptr": "*i32:16",
                "out_ptr": f"*{dtype}:16",
                "m": "i32:16",
                "n": "i32:16",
            },
            constants={"GROUP": group},
        )


def _rounding_variants() -> Iterator[Variant]:
    for dtype, (to, (largest, least)) in product(FLOATS, RANGES.items()):
        arguments = {
            "x_ptr": f"*{dtype}:16",
            "q_ptr": f"*{'i8' if to == 'int8' else to}:16",
            "scale_ptr": "*fp32:16",
            "n": "i32:16",
            "stride": "i32:16",
        }
        for transformed in (False, True) if to == "int8" else (False,):
            yield Variant(
                kernel=products.quantize_rows_kernel,
                dtype=f"{dtype} {to}",
                tile=ROUNDING,
                arguments=arguments,
                constants={"LARGEST": largest, "LEAST": least, "TRANSFORMED": transformed},
                architectures=_computing(to),
            )


def _computing(to: str) -> tuple[str, ...]:
    return tuple(name for name in ARCHITECTURES if to == "int8" or FP8.get(name) == to)


def _product_variants(dtype: str, split: bool) -> Iterator[Variant]:
    # fp32 is for tests of a GPU against the reference: as exact products it is slow, and may spill.
    out = {"bias_ptr": f"*{dtype}:16", "out_ptr": "*fp32:16" if split else f"*{dtype}:16"}
    sizes = {"num_tokens": "i32", "has_bias": "i32", "m": "i32:16", "n": "i32:16"}
    constants = {"SPLIT": split}
    x = {"x_ptr": f"*{dtype}:16"}
    for group in GROUPS:
        for sizes_of_tile, architectures in _tiles("int4", group):
            yield Variant(
                kernel=products.int4_product_kernel,
                dtype=dtype,
                tile=sizes_of_tile,
                arguments={
                    **x,
                    "weight_ptr": "*i32:16",
                    "scale_ptr": "*i32:16",
                    **out,
                    **sizes,
                    "stride": "i32:16",
                },
                constants={"GROUP": group, **constants},
                hot=dtype != "fp32",
                architectures=architectures,
            )
    for sizes_of_tile, architectures in _tiles("fp8_weights", None):
        yield Variant(
            kernel=products.fp8_product_kernel,
            dtype=dtype,
            tile=sizes_of_tile,
            arguments={
                **x,
                "weight_ptr": "*u8:16",
                "scale_ptr": "*fp32:16",
                **out,
                **sizes,
                "stride": "i32:16",
            },
            constants=constants,
            hot=dtype != "fp32",
            architectures=architectures,
        )
    for to, group in [("fp8e4nv", 0), ("fp8e4b8", 0), *(("int8", group) for group in (0, *GROUPS))]:
        pointer = f"*{'i8' if to == 'int8' else to}:16"
        for sizes_of_tile, architectures in _tiles("int8" if to == "int8" else "fp8", group or None):
            yield Variant(
                kernel=products.rounded_product_kernel,
                dtype=f"{dtype} {to}",
                tile=sizes_of_tile,
                arguments={
                    "x_ptr": pointer,
                    "x_scale_ptr": "*fp32:16",
                    "weight_ptr": pointer,
                    "scale_ptr": "*fp16:16" if group else "*fp32:16",
                    **out,
                    **sizes,
                },
                constants={"GROUP": group, "INTEGER": to == "int8", **constants},
                architectures=tuple(name for name in architectures if name in _computing(to)),
            )


def _tiles(form: str, group: int | None) -> Iterator[tuple[Tile, tuple[str, ...]]]:
    """All that a launch may have."""
    counts = [count for count in (16, 32, 64, 128, 8192) if form != "int4" or count <= MOST_UNPACKED]
    return grouped_by_tile(lambda name: [tile(form, count, group, name) for count in counts])


def workloads() -> Iterator[Workload]:
    m, n = 14336, 4096
    forms = (("fp8", None, 1.0), ("int8", None, 1.0), ("int8", 128, 1 + 2 / 128), ("int4", 64, 0.5 + 4 / 64))
    for (form, group, weight_bytes), num_tokens in product(forms, (16, 8192)):

        def prepare(
            device: torch.device, form: str = form, group: int | None = group, num_tokens: int = num_tokens
        ) -> Call:
            weight = torch.randn(m, n, dtype=torch.bfloat16, device=device)
            layer = pack_quantized(weight, None, form, group)
            x = torch.randn(num_tokens, n, dtype=torch.bfloat16, device=device)
            return lambda: quantized_linear(x, layer)

        grouped = f", groups of {group}" if group else ""
        yield Workload(
            op=f"quantized_linear {form}",
            size=f"{num_tokens} × {n} to {m}{grouped}",
            dtype="bf16",
            bytes=int(m * n * weight_bytes) + (0 if group else 4 * m) + 2 * num_tokens * (m + n),
            flops=2 * num_tokens * m * n,
            unit="bf16" if form == "int4" else form,
            prepare=prepare,
        )
