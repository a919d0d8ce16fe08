"""Arrays laid end to end in one piece of bytes, which goes to a device by one copy, and their views there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

ALIGNMENT = 16
"""Bytes that divide an array's place: kernels load as much at once."""


def total_bytes(arrays: Sequence[np.ndarray]) -> int:
    """Of the piece that `lay` fills."""
    return sum(_aligned(array.nbytes) for array in arrays)


def lay(arrays: Sequence[np.ndarray], piece: np.ndarray) -> None:
    """Copies the arrays into `piece`, uint8 [total_bytes]."""
    start = 0
    for array in arrays:
        piece[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        start += _aligned(array.nbytes)


class Views:
    """The arrays in a piece, asked for one after the other in the order in which they were laid.

    piece: uint8 [total_bytes], on any device.
    """

    def __init__(self, piece: Tensor) -> None:
        self._piece, self._used = piece, 0

    def __call__(self, array: np.ndarray) -> Tensor:
        """Where the array is: a tensor of its type and shape. Its values are not looked at."""
        start = self._used
        self._used += _aligned(array.nbytes)
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        return self._piece[start : start + array.nbytes].view(dtype).view(array.shape)


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
