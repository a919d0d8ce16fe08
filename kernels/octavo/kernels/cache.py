"""Keys or values of a layer in fewer bits than the model computes with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

Tensor = TypeVar("Tensor")


@dataclass(frozen=True, slots=True)
class Int8Cache(Generic[Tensor]):
    """A KV cache of 8 bits an element, with a scale for each token's head.

    values: int8 [num_blocks, num_kv_heads, block_size, head_dim]; scales: float32 [num_blocks, num_kv_heads,
    block_size]. A head's vector is its values times its scale, and its largest element ±127.
    """

    values: Tensor
    scales: Tensor
