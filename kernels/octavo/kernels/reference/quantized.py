"""Linear layers with weights of 8 or 4 bits. Contracts: `octavo.kernels.ops.Ops`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight consecutive weights of 4 bits are in an int32, from its lowest bits. The order of AWQ (Lin
et al., 2023): one mask takes two neighbours for the two halves of a register."""


@dataclass(frozen=True, slots=True)
class QuantizedLinear:
    """A matrix of m rows and n columns as the rooms of torch keep it.

    weight: float8 (e4m3) or int8 [m, n]; of "int4" int32 [m, n / 8], eight weights to an integer in ORDER.
    scale: float32 [m, 1] or float16 [m, n / group]; minimum, of "int4" alone: float16 [m, n / group], each
        beside its scale in memory. A weight is scale · q, or scale · q + minimum.
    bias: [m].
    """

    form: str
    weight: Tensor
    scale: Tensor
    minimum: Tensor | None
    bias: Tensor | None

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
    groups = rows.view(len(rows), -1, group or n)
    if form == "int8":
        scale = _scale(groups.abs().amax(2) / 127).to(torch.float32 if group is None else torch.float16)
        q = (groups / scale.float()[:, :, None]).round().clamp(-127, 127)
        return QuantizedLinear(form, q.to(torch.int8).flatten(1), scale, None, bias)
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
            q, x_scale = quantize_rows(x, layer.weight.dtype)
            width = layer.group or x.shape[1]
            # Of the integers exact, in this type.
            products = torch.einsum(
                "tgk,mgk->tmg",
                q.double().view(len(x), x.shape[1] // width, width),
                layer.weight.double().view(len(layer.weight), -1, width),
            )
            y = (products.float() * layer.scale.float()).sum(-1) * x_scale[:, None]
    return (y if layer.bias is None else y + layer.bias.float()).to(x.dtype)


def quantize_rows(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x: [num_tokens, n] → int8 or float8 of the same shape, and the scale of each row, float32
    [num_tokens]."""
    integer = dtype is torch.int8
    largest = 127.0 if integer else torch.finfo(dtype).max
    scale = _scale(x.float().abs().amax(1) / largest)
    scaled = x.float() * scale.reciprocal()[:, None]
    return (scaled.round() if integer else scaled).clamp(-largest, largest).to(dtype), scale


def _scale(scale: Tensor) -> Tensor:
    """With one in place of nothing, by which nothing can be divided; float16 has 2⁻²⁴ as the least."""
    return torch.where(scale > 2.0**-24, scale, 1.0)


def _of_4_bits(layer: QuantizedLinear) -> Tensor:
    assert layer.minimum is not None
    q = torch.stack([layer.weight >> 4 * ORDER.index(at) & 15 for at in range(8)], 2)
    groups = q.float().view(*layer.scale.shape, -1)
    return (groups * layer.scale.float()[:, :, None] + layer.minimum.float()[:, :, None]).flatten(1)
