"""How far two computations of the same may be apart by rounding, by type."""

from __future__ import annotations

import torch

DTYPES = [torch.float32, torch.bfloat16, torch.float16]

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}
"""Two units in the last place of the half types: the interpreter truncates to bfloat16, where cards round."""


OF_FLOAT8 = 4e-3
"""Hopper adds products of float8 up with 14 bits, wherever the sum is kept."""


def close(actual: torch.Tensor, expected: torch.Tensor, least: float = 0.0) -> None:
    """least: a tolerance that may be larger than the type's."""
    assert actual.dtype is expected.dtype
    tolerance = max(TOLERANCE[expected.dtype], least)
    torch.testing.assert_close(actual.float(), expected.float(), atol=tolerance, rtol=tolerance)
