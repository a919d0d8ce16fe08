"""Who computes how many tokens in the next step. Pure: it knows sequences and blocks, no device and no
clock."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

from octavo.engine.sequence import Sequence, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from octavo.engine.block_manager import BlockManager, Copy

_key = attrgetter("key")


@dataclass(slots=True)
class StepPlan:
    """Which sequences compute how many of their next tokens, and which blocks are copied before.

    begun: sequences that compute something for the first time.
    preempted: sequences that have lost their blocks for it.
    """

    chunks: list[tuple[Sequence, int]] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    begun: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)


class Scheduler:
    """Continuous batching under one token budget: decodes and prefill chunks share every step.

    A sequence that is queued is in one of four places: `waiting` (no seat in the batch), `running`, `paused`
    (its reader fell behind: it keeps its blocks while nobody needs them), or `held` (finished, its blocks
    kept for a continuation).

    - Running sequences go first, oldest first. Each decode is sure of its token, so that a long prefill,
      which takes what the budget leaves, never stalls one.
    - A waiting sequence is admitted when its tokens so far fit in the pool with a block to spare for each
      running sequence. The head of the queue is never overtaken, so nothing starves.
    - When blocks run out, held sequences lose theirs first, then paused ones, then the youngest of all, which
      may be the one that asks. Preempted sequences wait in their old place and are computed again, as far as
      the prefix cache does not have them.
    - The engine admits no sequence that could outgrow the whole pool, so the oldest one always gets on.
    """

    def __init__(self, blocks: BlockManager, *, max_num_seqs: int, max_num_batched_tokens: int) -> None:
        assert max_num_batched_tokens >= max_num_seqs, "a decode could be left without its token"
        self._blocks = blocks
        self._max_num_seqs = max_num_seqs
        self._budget = max_num_batched_tokens
        self.waiting: list[Sequence] = []  # sorted by key, as is
        self.running: list[Sequence] = []
        self.paused: dict[Sequence, None] = {}
        self.held: OrderedDict[Sequence, None] = OrderedDict()
        self.num_preemptions = 0
        self._preempted: list[Sequence] = []  # by the step that is being planned

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    def sequences(self) -> Iterator[Sequence]:
        """Every sequence that may have blocks."""
        yield from self.running
        yield from self.waiting
        yield from self.paused
        yield from self.held

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence, in the place that its priority and its age give it."""
        sequence.status = Status.WAITING
        insort(self.waiting, sequence, key=_key)

    def pause(self, sequence: Sequence) -> None:
        """Takes a live sequence out of the batch or the queue; its blocks stay while nobody needs them."""
        self._take_out(sequence)
        sequence.status = Status.PAUSED
        self.paused[sequence] = None

    def resume(self, sequence: Sequence) -> None:
        """Queues a paused sequence again."""
        del self.paused[sequence]
        self.add(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Ends a live sequence. Its blocks are given back, or kept for a continuation if it is to be held."""
        self._take_out(sequence)
        sequence.status = Status.FINISHED
        if sequence.hold:
            self.held[sequence] = None
        else:
            self._blocks.release(sequence.table)

    def release(self, sequence: Sequence) -> None:
        """Ends the hold on a finished sequence, if there still is one."""
        if sequence in self.held:
            del self.held[sequence]
            self._blocks.release(sequence.table)

    def schedule(self) -> StepPlan:
        """The next step. What it plans is to be computed: blocks are reserved and copies are due."""
        plan = StepPlan()
        self._preempted = plan.preempted
        budget = self._budget
        decodes_to_come = sum(sequence.is_decoding for sequence in self.running)
        for sequence in self.running[:]:
            if sequence.status is not Status.RUNNING:
                continue  # preempted by an older one in this loop
            decodes_to_come -= sequence.is_decoding
            room = budget - decodes_to_come
            # One whose last token is being drawn is planned no further (see `planned_step`).
            is_over = sequence.num_output_tokens >= sequence.max_tokens
            count = 0 if is_over else min(sequence.num_uncomputed_tokens, room)
            if count > 0 and self._reserve(sequence, count, plan):
                self._fit_draft(sequence, room - count)
                plan.chunks.append((sequence, count))
                budget -= count + len(sequence.draft)
        if plan.preempted:
            return plan  # what was just taken is not given back at once
        self._admit_waiting(plan, budget)
        while not plan.chunks and self.waiting and self.running:
            # All that run are beams which wait for others of their search, and these find no place.
            self._preempt(self.running[-1])
            self._admit_waiting(plan, budget)
        return plan

    def _admit_waiting(self, plan: StepPlan, budget: int) -> None:
        coming: set[bytes] = set()
        for sequence, count in plan.chunks:
            coming.update(self._blocks_of(sequence, count))
        while budget > 0 and self.waiting and len(self.running) < self._max_num_seqs:
            sequence = self.waiting[0]
            # What this step computes anyway is in the cache when the next one begins.
            if coming and self._could_share(sequence, coming):
                break
            if not self._admit(sequence, plan):
                break
            count = min(sequence.num_uncomputed_tokens, budget)
            plan.chunks.append((sequence, count))
            coming.update(self._blocks_of(sequence, count))
            budget -= count

    def _blocks_of(self, sequence: Sequence, count: int) -> list[bytes]:
        """The hashes of the blocks that `count` more tokens of a sequence fill."""
        if count == 1 or not sequence.uses_cache:
            return []
        size, start = self._blocks.block_size, sequence.num_computed_tokens
        return sequence.hashes[start // size : (start + count) // size]

    def _could_share(self, sequence: Sequence, coming: set[bytes]) -> bool:
        """Whether a waiting sequence would compute a block that others compute in this step."""
        if sequence.table.blocks or not sequence.uses_cache:
            return False
        whole = (len(sequence.token_ids) - 1) // self._blocks.block_size
        return not coming.isdisjoint(sequence.hashes[:whole])

    def _fit_draft(self, sequence: Sequence, room: int) -> None:
        """Makes room for a draft as far as that costs nobody anything: `room` tokens, and free blocks."""
        if not sequence.draft:
            return
        del sequence.draft[max(room, 0) :]
        end = len(sequence.token_ids)
        spare = self._blocks.num_available - len(self.running)
        if self._blocks.num_missing(sequence.table, end, end + len(sequence.draft)) > spare:
            sequence.draft = []
        else:
            self._blocks.reserve(sequence.table, end, end + len(sequence.draft))

    def _reserve(self, sequence: Sequence, count: int, plan: StepPlan) -> bool:
        """Makes room for a running sequence's next `count` tokens; False if that took its own blocks."""
        start = sequence.num_computed_tokens
        while (copies := self._blocks.reserve(sequence.table, start, start + count)) is None:
            if self._reclaim():
                continue
            youngest = max((s for s in (*self.running, *self.waiting) if s.table.blocks), key=_key)
            self._preempt(youngest)
            if youngest is sequence:
                return False
        plan.copies += copies
        return True

    def _admit(self, sequence: Sequence, plan: StepPlan) -> bool:
        """Seats the head of the queue, with room for all its tokens so far; False if they do not fit."""
        blocks, end = self._blocks, len(sequence.token_ids)
        found = not sequence.table.blocks
        if found:
            hashes = sequence.hashes if sequence.uses_cache else []
            sequence.table = blocks.find_prefix(hashes, end)
            sequence.num_computed_tokens = len(sequence.table.blocks) * blocks.block_size
        start = sequence.num_computed_tokens
        if not self._make_room(sequence, start, end):
            if found:  # a continuation keeps its blocks while it waits; those from the cache go back there
                self._give_up_blocks(sequence)
            return False
        copies = blocks.reserve(sequence.table, start, end)
        assert copies is not None, "the blocks were counted before"
        plan.copies += copies
        del self.waiting[0]
        sequence.status = Status.RUNNING
        insort(self.running, sequence, key=_key)
        if sequence.num_cached_tokens is None:
            # What another engine put out may be cached here too, but it is no part of the prompt.
            sequence.num_cached_tokens = min(start, sequence.num_prompt_tokens)
            plan.begun.append(sequence)
        return True

    def _make_room(self, sequence: Sequence, start: int, end: int) -> bool:
        """Frees blocks until a waiting sequence fits; takes none, and is False, where that would not do."""

        def lacking() -> int:
            missing = self._blocks.num_missing(sequence.table, start, end)
            return missing + len(self.running) - self._blocks.num_available

        if lacking() <= 0:
            return True
        others = [s for s in self.waiting if s.table.blocks and s is not sequence]
        if lacking() > sum(len(s.table.blocks) for s in (*self.held, *self.paused, *others)):
            return False
        while lacking() > 0:
            if not self._reclaim():
                if not others:
                    return False
                self._preempt(others.pop())
        return True

    def _reclaim(self) -> bool:
        """Takes the blocks of one sequence that is not being computed; False if there is none left."""
        if self.held:
            self.release(next(iter(self.held)))
            return True
        stalled = [sequence for sequence in self.paused if sequence.table.blocks]
        if stalled:
            self._preempt(max(stalled, key=_key))
        return bool(stalled)

    def _preempt(self, sequence: Sequence) -> None:
        """Takes a live sequence's blocks; it will be computed again, from what the cache still has of it."""
        self.num_preemptions += 1
        sequence.draft = []
        self._preempted.append(sequence)
        self._give_up_blocks(sequence)
        if sequence.status is Status.RUNNING:
            self._take_out(sequence)
            self.add(sequence)

    def _give_up_blocks(self, sequence: Sequence) -> None:
        self._blocks.release(sequence.table)
        sequence.num_computed_tokens = 0

    def _take_out(self, sequence: Sequence) -> None:
        if sequence.status is Status.PAUSED:
            del self.paused[sequence]
        elif sequence.status is not Status.NEW:
            place = self.running if sequence.status is Status.RUNNING else self.waiting
            del place[bisect_left(place, sequence.key, key=_key)]
