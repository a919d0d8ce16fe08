"""Guesses tokens for the sequences that decode, as many as pay."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from octavo.engine.speculation.governor import Governor
from octavo.engine.speculation.proposer import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Sequence as Items

    from octavo.engine.sequence import Sequence
    from octavo.engine.speculation.proposer import Outlook, Proposer


class Speculator:
    """A proposer under a governor. Used by the engine, in its thread, around every step.

    num_proposed, num_accepted: guesses that were verified, and those of them that were right.
    """

    def __init__(self, proposer: Proposer, most: int, clock: Callable[[], float] = perf_counter) -> None:
        """most: guesses for a sequence in one step. clock: seconds."""
        self.num_proposed = 0
        self.num_accepted = 0
        self._proposer = proposer
        self._most = most
        self._clock = clock
        self._governor = Governor(proposer.num_kinds)

    @property
    def block_bytes(self) -> int:
        """Of a KV block of the proposer's own; 0 if it needs none."""
        return self._proposer.block_bytes

    def allocate(self, num_blocks: int) -> None:
        """Makes the proposer's KV pool, if it needs one: as many blocks as the target has. ConfigError
        if the device does not have that much."""
        self._proposer.allocate(num_blocks)

    def propose(self, sequences: Items[Sequence], num_others: int = 0) -> None:
        """Sets the drafts of these sequences, which decode, for the step to come; empty where guessing
        does not pay. The scheduler may shorten or drop them.

        num_others: sequences that decode in the same step and may not have a draft.
        """
        started = self._clock()
        outlooks = [self._outlook(sequence) for sequence in sequences]
        counts = self._governor.plan(list(zip(sequences, outlooks, strict=True)), num_others)
        planned = self._clock()
        for sequence in sequences:
            sequence.draft = []
        wanted = [(sequence, count) for sequence, count in zip(sequences, counts, strict=True) if count]
        if wanted:
            for (sequence, _), draft in zip(wanted, self._proposer.propose(wanted), strict=True):
                sequence.draft = up_to_stop(draft, sequence.stop_tokens)
        self._governor.proposed(
            rounds=max((len(sequence.draft) for sequence, _ in wanted), default=0),
            lag=self._proposer.num_caught_up if wanted else 0,
            seconds=self._clock() - planned,
            planning=planned - started,
        )

    def verified(self, sequence: Sequence, num_proposed: int, num_accepted: int) -> None:
        """The step has computed the first `num_proposed` guesses of the draft, and drawn the first
        `num_accepted` of them."""
        self.num_proposed += num_proposed
        self.num_accepted += num_accepted
        self._governor.verified(sequence, num_proposed, num_accepted)

    def timed(self, num_tokens: int, num_seqs: int, seconds: float) -> None:
        """A step that had decodes only: tokens, drafts included, of so many sequences, and how long it
        took without `propose`."""
        self._governor.timed(num_tokens, num_seqs, seconds)

    def forget(self, sequence: Sequence) -> None:
        """It has ended, or lost its blocks."""
        self._proposer.forget(sequence)
        self._governor.forget(sequence)

    def _outlook(self, sequence: Sequence) -> Outlook:
        # The last token is drawn anyway, so it need not be guessed.
        most = min(self._most, sequence.max_tokens - sequence.num_output_tokens - 1)
        return self._proposer.outlook(sequence, most) if most > 0 else NOTHING


def up_to_stop(draft: list[int], stop_tokens: frozenset[int]) -> list[int]:
    """The draft up to the first token that ends the sequence: nothing follows that."""
    for i, token in enumerate(draft):
        if token in stop_tokens:
            return draft[: i + 1]
    return draft
