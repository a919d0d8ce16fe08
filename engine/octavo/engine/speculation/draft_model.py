"""Guesses of a smaller model, which follows each sequence in a KV pool of its own.

Speculative decoding (Leviathan et al., 2023; Chen et al., 2023). It draws with the sequence's own random
numbers: what the target draws with the same number from a similar distribution is often the same token.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from octavo.engine.block_manager import BlockManager, BlockTable
from octavo.engine.speculation.draft_batch import Part, build_batch
from octavo.engine.speculation.proposer import NOTHING, Outlook

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

    from octavo.engine.block_manager import Copy
    from octavo.engine.runners import Runner
    from octavo.engine.sequence import Sequence
    from octavo.engine.speculation.proposer import Wanted

USUAL_LAG = 2
"""Tokens that are new where all guesses of the step before were right: the last guess, never computed,
and what was drawn after it."""


@dataclass(slots=True, eq=False)
class Context:
    """How far the draft model has followed a sequence.

    token_ids: those whose keys and values are in the blocks of `table`, guesses included.
    num_known: how many of them were the sequence's own when it was last looked at.
    turn: of `propose`, the last in which it took part.
    """

    token_ids: array[int] = field(default_factory=lambda: array("i"))
    table: BlockTable = field(default_factory=BlockTable)
    num_known: int = 0
    turn: int = 0


@dataclass(slots=True)
class _Draft:
    """Guesses in the making: `count` at most, none while the context is behind."""

    sequence: Sequence
    context: Context
    count: int
    token_ids: list[int] = field(default_factory=list)


class DraftModelProposer:
    """Catches up with the sequences within a budget of tokens, then guesses for all that are caught up,
    one token in each round.

    It keeps what it has computed of each sequence until blocks run out; then those that were not guessed
    for longest lose theirs. Equal prefixes share blocks, by the target's hashes: tokens are the same.
    """

    num_kinds = 1

    def __init__(self, runner: Runner, *, max_model_len: int, vocab_size: int, budget: int) -> None:
        """max_model_len: tokens that the draft model can follow.
        vocab_size: tokens that both models have.
        budget: most tokens to catch up with in one step.
        """
        self.block_bytes = runner.block_bytes
        self.blocks = BlockManager(0)
        self.contexts: OrderedDict[Sequence, Context] = OrderedDict()
        self._runner = runner
        self._max_model_len = max_model_len
        self._vocab_size = vocab_size
        self._budget = budget
        self._turn = 0
        self.num_caught_up = 0

    def allocate(self, num_blocks: int) -> None:
        self._runner.allocate(num_blocks)
        self.blocks = BlockManager(num_blocks)
        self.contexts.clear()

    def outlook(self, sequence: Sequence, most: int) -> Outlook:
        # The last guess is never computed, so it may lie just past the end.
        most = min(most, self._max_model_len - len(sequence.token_ids) + 1)
        if most < 1:
            return NOTHING
        lag = len(sequence.token_ids) - self._context(sequence).num_known
        return Outlook((0,) * most, max(lag - USUAL_LAG, 0))

    def propose(self, wanted: Items[Wanted]) -> list[list[int]]:
        self._turn += 1
        self.num_caught_up = 0
        drafts = [_Draft(sequence, self._used(sequence), count) for sequence, count in wanted]
        active = self._catch_up(drafts)
        while active := [draft for draft in active if self._goes_on(draft)]:
            self._compute(active, [_next(draft) for draft in active], [])
        return [draft.token_ids for draft in drafts]

    def forget(self, sequence: Sequence) -> None:
        context = self.contexts.pop(sequence, None)
        if context is not None:
            self.blocks.release(context.table)

    def check(self) -> None:
        """Asserts that no block is lost or counted wrong. For tests and idle moments."""
        self.blocks.check(context.table for context in self.contexts.values())

    def _goes_on(self, draft: _Draft) -> bool:
        last = draft.token_ids[-1]
        if last >= self._vocab_size:  # padding of the draft model's vocabulary
            del draft.token_ids[-1]
            return False
        return len(draft.token_ids) < draft.count and last not in draft.sequence.stop_tokens

    def _context(self, sequence: Sequence) -> Context:
        """What is computed of the sequence as it is now, of a new one what others computed of its
        prefix. Guesses that were wrong are dropped."""
        context = self.contexts.get(sequence)
        if context is None:
            context = Context(table=self.blocks.find_prefix(sequence.hashes, len(sequence.token_ids)))
            context.num_known = len(context.table.blocks) * self.blocks.block_size
            context.token_ids = sequence.token_ids[: context.num_known]
            self.contexts[sequence] = context
        context.num_known = num_equal(context, sequence.token_ids)
        del context.token_ids[context.num_known :]
        self.blocks.truncate(context.table, context.num_known)
        return context

    def _used(self, sequence: Sequence) -> Context:
        """The same, marked as used in this turn."""
        context = self._context(sequence)
        context.turn = self._turn
        self.contexts.move_to_end(sequence)
        return context

    def _catch_up(self, drafts: Items[_Draft]) -> list[_Draft]:
        """Computes what the contexts lack, those that lack least first; the drafts that then have their
        first guess."""
        computed: list[_Draft] = []
        parts: list[Part] = []
        copies: list[Copy] = []
        budget = self._budget
        for draft in sorted(drafts, key=_lag):
            start, end = len(draft.context.token_ids), len(draft.sequence.token_ids)
            lags = end - start > USUAL_LAG
            new = draft.sequence.token_ids[start : start + budget if lags else end]
            if not new or max(new) >= self._vocab_size:
                continue
            done = start + len(new) == end
            ahead = draft.count - 1 if done else 0
            room = self._reserve(draft.context, start, start + len(new) + ahead)
            if room is None:
                continue
            if lags:
                budget -= len(new)
                self.num_caught_up += len(new)
            copies += room
            computed.append(draft)
            parts.append(Part(draft.sequence, draft.context.table, start, new, draws=done))
        if not parts:
            return []
        self._compute(computed, parts, copies)
        for draft in computed:
            context = draft.context
            context.num_known = len(context.token_ids)
            self.blocks.commit(context.table, draft.sequence.hashes, context.num_known)
        return [draft for draft in computed if draft.token_ids]

    def _compute(self, drafts: Items[_Draft], parts: Items[Part], copies: list[Copy]) -> None:
        """One step of the draft model; a guess more for each part that draws one."""
        drawn = iter(self._runner.run(build_batch(parts, copies)).token_ids.tolist())
        for draft, part in zip(drafts, parts, strict=True):
            draft.context.token_ids.extend(part.token_ids)
            if part.draws:
                draft.token_ids.append(next(drawn))

    def _reserve(self, context: Context, start: int, end: int) -> list[Copy] | None:
        """Makes room for positions `start` to `end`; None if only this turn's have blocks left."""
        while (copies := self.blocks.reserve(context.table, start, end)) is None:
            sequence, oldest = next(iter(self.contexts.items()))
            if oldest.turn == self._turn:
                return None
            self.forget(sequence)
        return copies


def _next(draft: _Draft) -> Part:
    """The last guess, to be computed for the next."""
    context = draft.context
    return Part(draft.sequence, context.table, len(context.token_ids), draft.token_ids[-1:])


def _lag(draft: _Draft) -> int:
    return len(draft.sequence.token_ids) - len(draft.context.token_ids)


def num_equal(context: Context, token_ids: array[int]) -> int:
    """How many of the context's tokens are the first of `token_ids`, without the last of these: it must
    be computed for its logits.

    Sequences grow, so only what is new is compared; from the start where one was cut back.
    """
    start, theirs = context.num_known, context.token_ids
    if start > len(token_ids) or (start and token_ids[start - 1] != theirs[start - 1]):
        start = 0
    most = min(len(theirs), len(token_ids) - 1)
    return next((i for i in range(start, most) if theirs[i] != token_ids[i]), most)
