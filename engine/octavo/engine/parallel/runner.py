"""The runner of a model that several ranks compute, as the engine sees it: rank 0, which tells the rest."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from octavo.engine.parallel.ranks import Ranks
from octavo.engine.parallel.wire import encode
from octavo.engine.runners.build import build_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from octavo.engine.batch import Batch, StepOutput
    from octavo.engine.config import EngineConfig
    from octavo.engine.errors import RankLost
    from octavo.engine.models.files import ModelFiles

T = TypeVar("T")


class ParallelRunner:
    """See `octavo.engine.runners.Runner` and `Shared`. Sizes are of all ranks together.

    Raises ConfigError and ModelError as a runner does, whichever rank finds the reason; RankLost.
    """

    def __init__(
        self, files: ModelFiles, config: EngineConfig, max_model_len: int, on_weight: Callable[[str], None]
    ) -> None:
        """config: with the runner to take, not auto."""
        self._ranks = Ranks(config.tensor_parallel_size)
        try:
            group = self._ranks.load(files.path, config, max_model_len)
            self._own = build_part(files, config, max_model_len, on_weight, group)
            told = self._ranks.loaded()
        except BaseException:
            self._ranks.close()
            raise
        self._size = group.size
        self._free_memory: int = min(rank["free_memory"] for rank in told)
        self._kind = self._own.device.partition(":")[0]
        self.block_bytes = self._own.block_bytes + sum(rank["block_bytes"] for rank in told)
        self.device, self.dtype = f"{self._kind} × {self._size}", self._own.dtype

    def free_memory(self) -> int:
        if self._kind == "cpu":
            return self._own.free_memory()  # which is everybody's
        return min(self._own.free_memory(), self._free_memory) * self._size

    def allocate(self, num_blocks: int) -> None:
        self._ranks.allocate(num_blocks)
        try:
            self._own.allocate(num_blocks)
        finally:
            self._ranks.allocated()

    def run(self, batch: Batch) -> StepOutput:
        return self._together(self._own.run, batch)

    def logits(self, batch: Batch) -> Any:
        return self._together(self._own.logits, batch)

    def watch(self, on_loss: Callable[[RankLost], None]) -> None:
        self._ranks.watch.tell(on_loss)

    def close(self) -> None:
        self._ranks.close()

    def _together(self, compute: Callable[[Batch], T], batch: Batch) -> T:
        with uninterrupted():
            try:
                self._ranks.run(encode(batch))
                return compute(batch)
            except BaseException as error:
                # The others are in the middle of a step that rank 0 has left: they cannot go on.
                lost = self._ranks.watch.give_up(error)
                if error is not lost and isinstance(error, Exception):
                    raise lost from error
                raise


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Puts off Ctrl-C in a script or a notebook to the end: a step that rank 0 left would cost the model."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    interrupts: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if interrupts:
        raise KeyboardInterrupt
