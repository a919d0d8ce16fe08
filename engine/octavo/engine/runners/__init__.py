"""The one seam to a device: batches of integers in, tokens out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from octavo.engine.batch import Batch, StepOutput


class Runner(Protocol):
    """Owns weights, KV pool and sampling. Called from one thread, after `allocate`.

    block_bytes: bytes of one KV block, keys and values of all layers.
    device, dtype: what it computes on and in, as words.
    """

    block_bytes: int
    device: str
    dtype: str

    def free_memory(self) -> int:
        """Bytes on the device that KV blocks could take now."""
        ...

    def allocate(self, num_blocks: int) -> None:
        """Makes the KV pool. ConfigError if the device does not have that much."""
        ...

    def run(self, batch: Batch) -> StepOutput:
        """Copies blocks, computes the batch's tokens, stores their keys and values, draws one token per
        row."""
        ...
