"""A CPU's runner beside the loop that plans its steps: what a GPU's stream is to the host."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from octavo.engine.batch import with_drawn

if TYPE_CHECKING:
    from octavo.engine.batch import Batch, StepOutput
    from octavo.engine.runners import Runner, Submitted


class ThreadedRunner:
    """See `octavo.engine.runners.Runner`: another one, whose steps a thread of its own computes in order."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._thread = ThreadPoolExecutor(1, "runner")
        self._last: StepOutput | None = None
        self.block_bytes, self.device, self.dtype = runner.block_bytes, runner.device, runner.dtype

    def free_memory(self) -> int:
        return self._runner.free_memory()

    def allocate(self, num_blocks: int) -> None:
        self._runner.allocate(num_blocks)

    def run(self, batch: Batch) -> StepOutput:
        return self.submit(batch).result()

    def submit(self, batch: Batch) -> Submitted:
        return self._thread.submit(self._compute, batch)

    def logits(self, batch: Batch) -> Any:
        return self._thread.submit(self._runner.logits, batch).result()

    def _compute(self, batch: Batch) -> StepOutput:
        self._last = self._runner.run(with_drawn(batch, self._last))
        return self._last
