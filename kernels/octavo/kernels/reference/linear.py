"""Matrix products with weights packed once. Contracts: `octavo.kernels.ops.Ops`.

On a CPU, torch hands products to oneDNN, which brings the weights into its own order in every call. The
operators that torch's compiler uses let it do so once: 1.3 to 2 times as fast for one to 128 rows. They are
not public, so where they are missing or refuse, the plain product serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Linear:
    """weight: [m, n], or oneDNN's own form of it."""

    weight: Tensor
    bias: Tensor | None
    in_onednn_form: bool


def pack_linear(weight: Tensor, bias: Tensor | None = None) -> Linear:
    if weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16):
        try:
            return Linear(_onednn("_reorder_linear_weight")(weight), bias, in_onednn_form=True)
        except (AttributeError, RuntimeError):
            pass
    return Linear(weight, bias, in_onednn_form=False)


def linear(x: Tensor, layer: Linear) -> Tensor:
    if layer.in_onednn_form:
        product: Tensor = _onednn("_linear_pointwise")(x, layer.weight, layer.bias, "none", [], "")
        return product
    return F.linear(x, layer.weight, layer.bias)


def _onednn(name: str) -> Any:
    return getattr(torch.ops.mkldnn, name)
