"""What guesses tokens: the seam between the governor, who says how many, and a way to guess them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

    from octavo.engine.sequence import Sequence

Wanted = tuple["Sequence", int]
"""A sequence and the most tokens to guess for it, at least one."""


class Outlook(NamedTuple):
    """What could be guessed for a sequence now.

    kinds: one for each guess that could be made, first to last. Guesses of one kind are about equally
        often right where all before them were; a kind is an index below the proposer's `num_kinds`.
    lag: tokens that must be computed first, beyond the one or two new ones of a usual step.
    """

    kinds: Items[int]
    lag: int = 0


NOTHING = Outlook(())


class Proposer(Protocol):
    """A way to guess. Called from the engine's thread.

    num_kinds: of guesses, see `Outlook`.
    num_caught_up: tokens of lag that the last `propose` has computed.
    block_bytes: of one KV block of its own pool, which holds as many tokens as one of the target's; 0 if
        it has none.
    """

    num_kinds: int
    num_caught_up: int
    block_bytes: int

    def allocate(self, num_blocks: int) -> None:
        """Makes its pool, if it has one. ConfigError if the device does not have that much."""
        ...

    def outlook(self, sequence: Sequence, most: int) -> Outlook:
        """What at most `most` guesses for the sequence would be. Cheap: it is asked in every step."""
        ...

    def propose(self, wanted: Items[Wanted]) -> list[list[int]]:
        """Guesses for each, in order, after an outlook for each in the same step; fewer than wanted, or
        none, where it cannot make as many."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """Drops what it keeps of the sequence, if anything."""
        ...
