"""The one seam to a device: batches of integers in, tokens out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo.engine.batch import Batch, StepOutput
    from octavo.engine.errors import RankLost


class Submitted(Protocol):
    """A step that has begun."""

    def result(self) -> StepOutput:
        """Waits for it."""
        ...


class Runner(Protocol):
    """Owns weights, KV pool and sampling. Called from one thread, after `allocate`.

    block_bytes: bytes of one KV block, keys and values of all layers.
    device, dtype: what it computes on and in, as words.
    """

    block_bytes: int
    device: str
    dtype: str

    def free_memory(self) -> int:
        """Bytes on the device that KV blocks could take now, with room left for the largest step on a GPU."""
        ...

    def allocate(self, num_blocks: int) -> None:
        """Makes the KV pool. ConfigError if the device does not have that much."""
        ...

    def run(self, batch: Batch) -> StepOutput:
        """Copies blocks, computes the batch's tokens, stores their keys and values, draws one token per
        row."""
        ...

    def logits(self, batch: Batch) -> Any:
        """All of a step but the sampling, which is what every rank of several computes. Those of rank 0 are
        [num_rows + num_scored, vocab_size], in a form of its own."""
        ...


@runtime_checkable
class Submitting(Runner, Protocol):
    """A runner that computes beside whoever calls it."""

    def submit(self, batch: Batch) -> Submitted:
        """Begins a step as `run` does it. Steps are computed in the order in which they are submitted.

        At most one is submitted whose predecessor was not waited for, and it may have `drawn` tokens.
        """
        ...


@runtime_checkable
class Shared(Protocol):
    """A runner that other processes have a part in."""

    def watch(self, on_loss: Callable[[RankLost], None]) -> None:
        """Has `on_loss` called, from a thread of its own, when one of them is lost. From then on `run` raises
        RankLost, if it returns at all."""
        ...

    def close(self) -> None:
        """Ends them."""
        ...
