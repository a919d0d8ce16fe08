"""Feed-forward by experts, of which each token has a few. Contracts: `octavo.kernels.ops.Ops`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from octavo.kernels.reference.decoder import gated_activation

if TYPE_CHECKING:
    from torch import Tensor


def route(logits: Tensor, top_k: int, renormalize: bool) -> tuple[Tensor, Tensor]:
    ranked = torch.sort(torch.softmax(logits.float(), -1), dim=-1, descending=True, stable=True)
    weights, experts = ranked.values[:, :top_k], ranked.indices[:, :top_k]
    return weights / weights.sum(-1, keepdim=True) if renormalize else weights, experts.int()


def mixture_of_experts(
    x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, experts: Tensor, activation: str
) -> Tensor:
    output = torch.zeros_like(x, dtype=torch.float32)
    for expert in range(len(gate_up)):
        tokens, ranks = (experts == expert).nonzero(as_tuple=True)
        h = gated_activation(x[tokens] @ gate_up[expert].T, activation) @ down[expert].T
        output.index_add_(0, tokens, h.float() * weights[tokens, ranks, None])
    return output.to(x.dtype)
