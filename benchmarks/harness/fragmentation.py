"""How much of the KV memory that is held holds no tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from octavo.engine.config import BLOCK_SIZE

if TYPE_CHECKING:
    from octavo.engine.decoding import NewToken
    from octavo.engine.engine import Engine


@dataclass(slots=True)
class Fragmentation:
    """Looks at an engine after each of its steps, in its thread. A block that several sequences share counts
    once.

    held, filled: slots of the blocks in use, and those of them with a token in; summed over the steps.
    """

    engine: Engine
    held: int = 0
    filled: int = 0

    def watch(self) -> None:
        step, engine = self.engine.step, self.engine

        def watched() -> list[NewToken]:
            new = step()
            self._look()
            return new

        with_step: Any = engine
        with_step.step = watched

    def _look(self) -> None:
        fill: dict[int, int] = {}
        for sequence in self.engine._scheduler.sequences():
            stored = sequence.num_computed_tokens
            for i, block in enumerate(sequence.table.blocks):
                tokens = min(max(stored - i * BLOCK_SIZE, 0), BLOCK_SIZE)
                fill[block] = max(fill.get(block, 0), tokens)
        self.held += len(fill) * BLOCK_SIZE
        self.filled += sum(fill.values())

    @property
    def share(self) -> float:
        return 1 - self.filled / self.held if self.held else 0.0
