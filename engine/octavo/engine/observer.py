"""Whoever wants figures of the engine's work: what is told of each step and of each request that ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from octavo.engine.errors import EngineStopped
    from octavo.engine.output import FinishReason, Usage
    from octavo.engine.params import SamplingParams
    from octavo.engine.timeline import Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One step that computed something. Counts are of this step alone, in tokens.

    started, ended: nanoseconds since the epoch.
    num_prefill_tokens: computed of prompts, and of outputs that are computed again, after a preemption or for
        a request that another engine began.
    num_decode_tokens: computed by sequences that had one token to compute, their latest.
    num_drawn_tokens: of output, new.
    num_queried_tokens, num_hit_tokens: of the sequences that were scheduled for the first time, tokens looked
        up in the prefix cache (or in the blocks of the request that is continued), and of these the found.
    num_preemptions: sequences that lost their blocks.
    num_guessed_tokens, num_accepted_tokens: of speculation, guesses that were verified, and of these the
        true ones.
    token_gaps: nanoseconds between a sequence's tokens, one entry for each drawn token that is not the first
        which this engine drew of its sequence. All sequences that decode in two steps in a row have the same.
    first_token_waits: nanoseconds from the arrival of a request, one entry for each drawn token that is that
        first one.
    """

    started: int
    ended: int
    num_prefill_tokens: int
    num_decode_tokens: int
    num_drawn_tokens: int
    num_queried_tokens: int
    num_hit_tokens: int
    num_preemptions: int
    num_guessed_tokens: int = 0
    num_accepted_tokens: int = 0
    token_gaps: tuple[int, ...]
    first_token_waits: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReport:
    """One request that has ended.

    usage: as in its last delta; for one that was cancelled or has failed, of the deltas that were read.
    num_resumed_tokens: of the output tokens, those that another engine had made.
    max_tokens: most output tokens, by its parameters and the context.
    finish_reason: None if it has failed.
    error: why it has failed.
    """

    timeline: Timeline
    usage: Usage
    num_resumed_tokens: int
    params: SamplingParams
    max_tokens: int
    finish_reason: FinishReason | None
    error: EngineStopped | None = None


class Observer(Protocol):
    """Set as `AsyncEngine.observer`. Called on the event loop's thread; must return soon and not raise."""

    def step(self, step: StepReport) -> None:
        """After each step that computed something, once its tokens are on their streams."""
        ...

    def finished(self, request: RequestReport) -> None:
        """Once for each request: when its last delta is read, or it is cancelled, or it fails.

        Not for a request that was taken over with its end (`Resumption`): nothing was computed for it here.
        """
        ...
