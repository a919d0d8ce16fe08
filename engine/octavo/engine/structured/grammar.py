"""A compiled grammar, and the states of the outputs that follow it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from octavo.engine.structured.notation import reason

if TYPE_CHECKING:
    from llguidance import LLMatcher

log = logging.getLogger(__name__)

MOST_FORCED = 64
"""Tokens that are forced at a time, so that a long text that must come does not hold up a step."""


class Grammar:
    """What a request asks for, compiled.

    eos_token_ids: the model's ends of sequence, which all may come where the grammar is complete.
    failed: something went wrong while somebody generated. All matchers share one automaton, which grows as
        they meet new states; once it has passed a limit, nothing can be generated with it any more.
    """

    def __init__(self, start: LLMatcher, eos_token_ids: tuple[int, ...]) -> None:
        self.eos_token_ids = eos_token_ids
        self.failed = False
        self._start = start

    def matcher(self) -> Matcher:
        """For one output from its beginning; independent of all others. It costs some microseconds."""
        return Matcher(self, self._start.deep_copy())

    def fail(self, error: str) -> None:
        """The first error of a matcher is worth a line; others follow from it."""
        if not self.failed:
            log.warning("A form cannot be followed to its end, so outputs end early: %s", reason(error))
        self.failed = True


class Matcher:
    """How far one output has got in its grammar.

    Whatever goes wrong in here ends the output: only an end of sequence is allowed then.
    Used by the engine's thread; while a MaskFiller works on it, by nobody else.
    """

    __slots__ = ("_ahead", "_grammar", "_inner", "_over")

    def __init__(self, grammar: Grammar, inner: LLMatcher) -> None:
        self._grammar = grammar
        self._inner = inner
        self._ahead: list[int] = []  # forced tokens that the library has taken but the output not yet
        self._over = False

    @property
    def ended(self) -> bool:
        """Nothing but an end of sequence may follow, or it has come."""
        return self._over or (not self._ahead and self._inner.is_stopped())

    def accept(self, token_id: int) -> None:
        """An output token was chosen: one that the mask allows, or an end of sequence, which is the last."""
        if self._over:
            return
        if token_id in self._grammar.eos_token_ids:
            self._over = True
        elif self._ahead and self._ahead[0] == token_id:
            del self._ahead[0]
        else:
            self._take_back()
            self._take(token_id)

    def forced(self) -> list[int]:
        """Tokens of which the grammar leaves no choice, in order: those that masks alone would lead to.

        At most 64 of them, never an end of sequence. They are not accepted by this.
        """
        while not self._over and len(self._ahead) < MOST_FORCED:
            following = self._inner.compute_ff_tokens()
            # Only the first is sure: what the library says after it can depend on where it was asked.
            if not following or not self._take(following[0]):
                break
            self._ahead.append(following[0])
        return self._ahead.copy()

    def fork(self) -> Matcher:
        """The same state, to go on by itself."""
        child = Matcher(self._grammar, self._inner.deep_copy())
        child._ahead = self._ahead.copy()
        child._over = self._over
        return child

    def only(self) -> tuple[int, ...] | None:
        """The allowed tokens, where they are known; None where it takes the library to find them."""
        if self._over:
            return self._grammar.eos_token_ids
        return (self._ahead[0],) if self._ahead else None

    @property
    def library(self) -> LLMatcher:
        """The library's own object, to fill a mask with."""
        return self._inner

    def check(self) -> None:
        """After a mask was filled: ends the output if that failed."""
        if not self._over and self._inner.is_error():
            self._over = True
            self._grammar.fail(self._inner.get_error())

    def _take(self, token_id: int) -> bool:
        taken = self._inner.consume_token(token_id)
        self.check()
        return taken

    def _take_back(self) -> None:
        if self._ahead:
            self._inner.rollback(len(self._ahead))
            self._ahead.clear()
            self.check()
