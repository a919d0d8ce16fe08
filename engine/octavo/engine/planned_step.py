"""A step between its plan and its tokens, and how the step after it is planned before these are known.

    plain       plan N ─ run N ─ take N ─ plan N+1 ─ run N+1 ─ take N+1
    overlapped  plan N ─ submit N ─ plan N+1 ─ submit N+1 ─ wait for N, take N ─ plan N+2 …

In the second, step N+1 is planned as if N were done: what N computes counts as computed, and for each token
that it draws a placeholder stands, `drawn(row)`, which the runner replaces where it computes. What N's tokens
turn out to mean may end or pause a sequence that N+1 computes. Its part of N+1 is then dropped: nothing of it
was counted yet, so there is nothing to undo but a block that was taken too early, and whatever its last step
writes there is written before anything that a later step writes.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from octavo.engine.batch import drawn
from octavo.engine.batching import build_batch, scored
from octavo.engine.sequence import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from octavo.engine.batch import Batch
    from octavo.engine.batching import Draw
    from octavo.engine.block_manager import BlockManager
    from octavo.engine.masks import Masking
    from octavo.engine.scheduler import StepPlan
    from octavo.engine.sequence import Sequence


@dataclass(slots=True)
class PlannedStep:
    """chunks: which sequences compute how many tokens. draws: in the order of the sampling rows.
    num_scored: of each chunk, as it was planned, the tokens that are scored.

    started: when it was planned, by the engine's clock; clock: the same by `time.perf_counter`.
    num_queried_tokens, num_hit_tokens: looked up and found in the cache. num_preemptions: made for it.
    num_guesses: guessed tokens. num_tokens, num_decode_tokens: that count, known once it is settled.
    """

    batch: Batch
    chunks: list[tuple[Sequence, int]]
    draws: list[Draw]
    num_scored: list[int]
    started: int
    clock: float
    num_queried_tokens: int
    num_hit_tokens: int
    num_preemptions: int
    num_guesses: int
    num_tokens: int = 0
    num_decode_tokens: int = 0

    @classmethod
    def of(cls, plan: StepPlan, masking: Masking, started: int, clock: float, num_hit: int) -> PlannedStep:
        batch, draws = build_batch(plan, masking)
        ranges = [scored(sequence, count) for sequence, count in plan.chunks]
        return cls(
            batch=batch,
            chunks=plan.chunks,
            draws=draws,
            num_scored=[max(stop - first, 0) for first, stop in ranges],
            started=started,
            clock=clock,
            num_queried_tokens=sum(len(sequence.token_ids) for sequence in plan.begun),
            num_hit_tokens=num_hit,
            num_preemptions=len(plan.preempted),
            num_guesses=sum(len(draw.sequence.draft) for draw in draws),
        )

    def scored(self) -> Iterator[tuple[Sequence, range]]:
        """The sequences of which tokens are scored, and their rows."""
        row = 0
        for (sequence, _), count in zip(self.chunks, self.num_scored, strict=True):
            if count and sequence.status is not Status.FINISHED:
                yield sequence, range(row, row + count)
            row += count

    def settle(self, blocks: BlockManager) -> None:
        """Counts what it computes as computed, of the sequences that are still there for it.

        The others have ended, paused or lost their blocks since it was planned.
        """
        for sequence, count in self.chunks:
            if sequence.status is not Status.RUNNING:
                blocks.truncate(sequence.table, sequence.num_computed_tokens)
                continue
            self.num_tokens += count
            self.num_decode_tokens += sequence.is_decoding and sequence.num_output_tokens > 0
            sequence.num_computed_tokens += count
            blocks.commit(sequence.table, sequence.hashes, sequence.num_computed_tokens)
        self.draws = [draw for draw in self.draws if draw.sequence.status is Status.RUNNING]

    def can_be_followed(self, running: list[Sequence]) -> bool:
        """Whether the next step can be planned before this one's tokens are known: nobody who draws needs to
        know them, and there is something to compute."""
        if not all(draw.sequence.runs_ahead for draw in self.draws):
            return False
        drawing = {id(draw.sequence) for draw in self.draws}
        return any(
            sequence.num_uncomputed_tokens > 0
            or (id(sequence) in drawing and sequence.num_output_tokens + 1 < sequence.max_tokens)
            for sequence in running
        )

    @contextmanager
    def placeholders(self) -> Iterator[None]:
        """Each sequence that draws has a token more meanwhile."""
        for draw in self.draws:
            draw.sequence.token_ids.append(drawn(draw.row))
        try:
            yield
        finally:
            for draw in self.draws:
                draw.sequence.token_ids.pop()
