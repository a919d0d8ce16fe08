"""What this room cannot do, so that another one has to."""

from __future__ import annotations

import torch
from triton import knobs

from octavo.kernels.triton.norm import WIDEST

MOST_HEAD_DIM = 256
LEAST_CAPABILITY = 8
"""Of a GPU by NVIDIA: older ones have neither bfloat16 nor the shared memory."""


def refusal(device: torch.device, hidden_size: int, head_dim: int) -> str | None:
    """Why these kernels cannot serve a model on a device; None if they can."""
    if device.type != "cuda" and not knobs.runtime.interpret:
        return f"on {device.type} they run in Triton's interpreter only, which TRITON_INTERPRET=1 turns on"
    if device.type == "cuda" and not torch.version.hip:
        major, minor = torch.cuda.get_device_capability(device)
        if major < LEAST_CAPABILITY:
            return f"the GPU's compute capability, {major}.{minor}, is below {LEAST_CAPABILITY}.0"
    if hidden_size > WIDEST:
        return f"the model's hidden size, {hidden_size}, is above {WIDEST}"
    if head_dim > MOST_HEAD_DIM:
        return f"the model's head size, {head_dim}, is above {MOST_HEAD_DIM}"
    return None
