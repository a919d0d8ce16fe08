"""One output inside the engine: its tokens, how many of them are computed, and the blocks that hold them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from octavo.engine.block_manager import BlockTable
from octavo.engine.output import FinishReason
from octavo.engine.repetition import repeats

if TYPE_CHECKING:
    from array import array

    from octavo.engine.constraints import Constraint
    from octavo.engine.params import SamplingParams
    from octavo.engine.request import Request
    from octavo.engine.sampling_state import SamplingState
    from octavo.engine.timeline import Timeline


class Status(Enum):
    """Where the scheduler has a sequence."""

    NEW = auto()
    """Nowhere: it is not queued yet, or waits for its prompt to be computed by the first of its request."""
    WAITING = auto()
    RUNNING = auto()
    PAUSED = auto()
    """Its reader fell behind; it takes no part until the reader has caught up."""
    FINISHED = auto()


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """Tokens are prompt and output in one array; everything else that can be derived is a property.

    number: order of arrival, unique in an engine.
    request, index: what it is an output of, and which one.
    num_resumed_tokens: of the output tokens, those that another engine made, the first ones.
    num_computed_tokens: how many tokens have their keys and values in the blocks of `table`.
    unread_limit, num_read_tokens: the sequence pauses when this many of its output tokens are unread; None
        for never. Its reader counts what it has read, from another thread.
    hashes: chained hashes of the full blocks of `token_ids`; stays empty without prefix caching.
    num_cached_tokens: how many prompt tokens were found, not computed, when the sequence first ran; None
        before.
    constraint: what limits its next token, if anything can.
    draft: tokens that are guessed to follow, computed and verified in the coming step.
    """

    number: int
    request: Request
    index: int = 0
    token_ids: array[int]
    num_prompt_tokens: int
    params: SamplingParams
    sampling: SamplingState
    max_tokens: int
    stop_tokens: frozenset[int]
    timeline: Timeline
    num_resumed_tokens: int = 0
    priority: int = 0
    hold: bool = False
    unread_limit: int | None = None
    num_read_tokens: int = 0
    status: Status = Status.NEW
    num_computed_tokens: int = 0
    num_cached_tokens: int | None = None
    hashes: list[bytes] = field(default_factory=list)
    table: BlockTable = field(default_factory=BlockTable)
    finish_reason: FinishReason | None = None
    constraint: Constraint | None = None
    draft: list[int] = field(default_factory=list)

    @property
    def key(self) -> tuple[int, int]:
        """Who comes first: lower priority value, then earlier arrival."""
        return self.priority, self.number

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def end(self) -> FinishReason | None:
        """Why the sequence ends with its last token, if it does."""
        token_id, num_output = self.token_ids[-1], self.num_output_tokens
        if token_id in self.stop_tokens and num_output > self.params.min_tokens:
            explicit = token_id in self.params.stop_token_ids
            return FinishReason.STOP if explicit else FinishReason.EOS
        if num_output >= self.max_tokens:
            return FinishReason.LENGTH
        params, start = self.params, self.num_prompt_tokens
        if params.repetition_pattern and repeats(
            self.token_ids, start, params.repetition_pattern, params.repetition_count
        ):
            return FinishReason.REPETITION
        return None

    @property
    def is_behind(self) -> bool:
        """Whether its reader is."""
        unread = self.num_output_tokens - self.num_read_tokens
        return self.unread_limit is not None and unread >= self.unread_limit

    @property
    def is_decoding(self) -> bool:
        return self.num_uncomputed_tokens == 1

    @property
    def may_guess(self) -> bool:
        """Whether tokens that follow may be guessed and verified."""
        free = self.constraint is None or self.constraint.may_guess
        return self.is_decoding and self.request.beams is None and free

    @property
    def runs_ahead(self) -> bool:
        """Whether what follows its next token can be prepared, but for that token, before it is known: who
        is bound by a form, words or penalties, or decodes with others, needs to know it."""
        request = self.request
        free = self.constraint is None and not self.sampling.reads_output
        return free and request.beams is None and not request.shared

    @property
    def uses_cache(self) -> bool:
        """Whether it may take blocks of the prefix cache: not where its whole prompt is to be scored."""
        return not self.request.lacks_prompt_logprobs
