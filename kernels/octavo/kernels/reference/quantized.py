"""Linear layers with weights of 8 or 4 bits. Contracts: `octavo.kernels.ops.Ops`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight consecutive weights of 4 bits are in an int32, from its lowest bits. The order of AWQ (Lin
et al., 2023): one mask takes two neighbours for the two halves of a register."""


HADAMARD = 64
"""Elements that are transformed together before they are rounded."""


@dataclass(frozen=True, slots=True)
class QuantizedLinear:
    """A matrix of m rows and n columns as the rooms of torch keep it.

    weight: float8 (e4m3) or int8 [m, n]; of "int4" int32 [m, n / 8], eight weights to an integer in ORDER.
    scale: float32 [m, 1] or float16 [m, n / group]; minimum, of "int4" alone: float16 [m, n / group], each
        beside its scale in memory. A weight is scale · q, or scale · q + minimum.
    bias: [m].
    transformed: whether rows went through `hadamard` before, and activations have to.
    """

    form: str
    weight: Tensor
    scale: Tensor
    minimum: Tensor | None
    bias: Tensor | None
    transformed: bool = False

    @property
    def group(self) -> int | None:
        """How many consecutive weights of a row have a scale of their own; None if the row has one."""
        num_groups = self.scale.shape[1]
        n = self.weight.shape[1] * (8 if self.form == "int4" else 1)
        return None if num_groups == 1 and self.form != "int4" else n // num_groups


def pack_quantized(
    weight: Tensor,
    bias: Tensor | None,
    form: str,
    group: int | None = None,
    fp8: torch.dtype = torch.float8_e4m3fn,
) -> QuantizedLinear:
    """fp8: float8_e4m3fnuz where the device computes with that."""
    n = weight.shape[1]
    if form not in ("fp8", "fp8_weights", "int8", "int4"):
        raise ValueError(f"form is fp8, fp8_weights, int8 or int4 (got {form!r})")
    if form == "int4" and group is None:
        raise ValueError("group: int4 has a scale for each group of weights")
    if form.startswith("fp8") and group is not None:
        raise ValueError(f"group: {form} has one scale for each row (got {group})")
    if group is not None and (group not in (32, 64, 128) or n % group):
        raise ValueError(f"group is 32, 64 or 128 and divides the columns, {n} here (got {group})")
    rows = weight.float()
    if form.startswith("fp8"):
        scale = _scale(rows.abs().amax(1, keepdim=True) / torch.finfo(fp8).max)
        return QuantizedLinear(form, (rows / scale).to(fp8), scale, None, bias)
    transformed = form == "int8" and group is None and n % HADAMARD == 0
    groups = (hadamard(rows) if transformed else rows).view(len(rows), -1, group or n)
    if form == "int8":
        scale = _scale(groups.abs().amax(2) / 127).to(torch.float32 if group is None else torch.float16)
        q = (groups / scale.float()[:, :, None]).round().clamp(-127, 127)
        return QuantizedLinear(form, q.to(torch.int8).flatten(1), scale, None, bias, transformed)
    minimum = groups.amin(2).half()
    scale = _scale((groups.amax(2) - minimum.float()) / 15).half()
    q = ((groups - minimum.float()[:, :, None]) / scale.float()[:, :, None]).round().clamp(0, 15)
    eights = q.to(torch.int32).view(len(rows), -1, 8)
    packed = sum(eights[:, :, at] << 4 * place for place, at in enumerate(ORDER))
    scale, minimum = torch.stack([scale, minimum], 2).unbind(2)
    return QuantizedLinear(form, torch.as_tensor(packed), scale, minimum, bias)


def quantized_linear(x: Tensor, layer: QuantizedLinear) -> Tensor:
    match layer.form:
        case "fp8_weights":
            y = x.float() @ layer.weight.float().T * layer.scale[:, 0]
        case "int4":
            y = x.float() @ _of_4_bits(layer).to(x.dtype).float().T
        case _:
            q, x_scale = quantize_rows(x, layer.weight.dtype, layer.transformed)
            width = layer.group or x.shape[1]
            # Of the integers exact, in this type.
            products = torch.einsum(
                "tgk,mgk->tmg",
                q.double().view(len(x), x.shape[1] // width, width),
                layer.weight.double().view(len(layer.weight), -1, width),
            )
            y = (products.float() * layer.scale.float()).sum(-1) * x_scale[:, None]
    return (y if layer.bias is None else y + layer.bias.float()).to(x.dtype)


def hadamard(x: Tensor) -> Tensor:
    """Walsh and Hadamard's transform of each HADAMARD elements, float32 [rows, n]: what stands out is spread
    over all (QuaRot, Ashkboos et al., 2024). Signs of a bent function come before, so that no common pattern
    ends up in one element. Products of two rows that are transformed are those of the two."""
    at = torch.arange(HADAMARD, device=x.device)
    bent = (at & at >> 1) ^ (at >> 2 & at >> 3) ^ (at >> 4 & at >> 5)
    sums = x.view(-1, HADAMARD) * (1.0 - 2.0 * (bent & 1))
    for stage in range(HADAMARD.bit_length() - 1):
        first, second = sums.view(-1, 2, 1 << stage).unbind(1)
        sums = torch.stack([first + second, first - second], 1)
    return (sums / math.sqrt(HADAMARD)).view(x.shape)


def quantize_rows(x: Tensor, dtype: torch.dtype, transformed: bool = False) -> tuple[Tensor, Tensor]:
    """x: [num_tokens, n] → int8 or float8 of the same shape, and the scale of each row, float32
    [num_tokens]."""
    integer = dtype is torch.int8
    largest = 127.0 if integer else torch.finfo(dtype).max
    x = hadamard(x.float()) if transformed else x.float()
    scale = _scale(x.abs().amax(1) / largest)
    scaled = x * scale.reciprocal()[:, None]
    return (scaled.round() if integer else scaled).clamp(-largest, largest).to(dtype), scale


def _scale(scale: Tensor) -> Tensor:
    """With one in place of nothing, by which nothing can be divided; float16 has 2⁻²⁴ as the least."""
    return torch.where(scale > 2.0**-24, scale, 1.0)


def _of_4_bits(layer: QuantizedLinear) -> Tensor:
    assert layer.minimum is not None
    q = torch.stack([layer.weight >> 4 * ORDER.index(at) & 15 for at in range(8)], 2)
    groups = q.float().view(*layer.scale.shape, -1)
    return (groups * layer.scale.float()[:, :, None] + layer.minimum.float()[:, :, None]).flatten(1)
