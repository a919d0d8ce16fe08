"""Everything of a decoder layer but attention. Contracts: `octavo.kernels.ops.Ops`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo.kernels.cache import Int8Cache


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, eps)


def add_rms_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> Tensor:
    return rms_norm(x.add_(delta), weight, eps)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return torch.cat([rotated, rest], dim=-1) if rest.shape[-1] else rotated


def gated_activation(x: Tensor, activation: str) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    match activation:
        case "silu":
            return F.silu(gate).mul_(up)
        case "gelu":
            return F.gelu(gate).mul_(up)
        case "gelu_tanh":
            return F.gelu(gate, approximate="tanh").mul_(up)
    raise ValueError(f"unknown activation {activation!r}")


def copy_blocks(cache: Tensor | Int8Cache[Tensor], copies: Tensor) -> None:
    if isinstance(cache, Int8Cache):
        copy_blocks(cache.values, copies)
        copy_blocks(cache.scales, copies)
        return
    cache.index_copy_(0, copies[:, 1], cache.index_select(0, copies[:, 0]))
