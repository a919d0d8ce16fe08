"""Low-rank adapters (Hu et al., 2021), each row its own. Contracts: `octavo.kernels.ops.Ops`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def plan_adapters(adapters: np.ndarray, num_adapters: int, like: Tensor) -> Tensor:
    return torch.from_numpy(adapters).to(like.device)


def add_adapters(output: Tensor, x: Tensor, a: Tensor, b: Tensor, plan: Tensor) -> None:
    for adapter in range(len(a)):
        rows = (plan == adapter).nonzero()[:, 0]
        product = x[rows].float() @ a[adapter].float().T @ b[adapter].float().T
        output[rows] = (output[rows].float() + product).to(output.dtype)
