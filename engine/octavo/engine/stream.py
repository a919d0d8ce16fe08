"""One request as its client sees it: an asynchronous iterator of deltas."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from octavo.engine.observer import RequestReport
from octavo.engine.output import Delta, FinishReason
from octavo.engine.outputs import Outputs

if TYPE_CHECKING:
    from octavo.engine.async_engine import AsyncEngine
    from octavo.engine.decoding import NewToken
    from octavo.engine.errors import EngineStopped
    from octavo.engine.output import Usage
    from octavo.engine.resumption import Resumption
    from octavo.engine.sequence import Sequence
    from octavo.engine.timeline import Timeline
    from octavo.engine.tokenizer import Tokenizer


class Stream:
    """Yields what was produced since the last delta of an output; the last has a finish reason. Raises
    EngineStopped.

    Text is made when it is read. When a reader lets too many tokens pile up its sequence pauses, and goes on
    once it reads. Outputs that are chosen among others, by `best_of` or a beam search, come when all have
    ended.

    A request that another engine began yields only what follows, but its output is the whole one.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        sequence: Sequence,
        tokenizer: Tokenizer,
        hold_timeout: float,
        resume: Resumption | None = None,
    ) -> None:
        """resume: what `sequence` was made with. InvalidRequest if its text does not end as it says."""
        self.prompt_token_ids = sequence.token_ids[: sequence.num_prompt_tokens].tolist()
        self.held = False
        self._engine = engine
        self._sequence = sequence
        self._hold_timeout = hold_timeout
        self._outputs = Outputs(engine, sequence, tokenizer, resume)
        self._told_end = False
        self._cancelled = False
        self._error: EngineStopped | None = None
        self._news = asyncio.Event()
        self._expiry: asyncio.TimerHandle | None = None

    @property
    def output_token_ids(self) -> list[int]:
        """Of the first output, those that were yielded so far, here or where the request was begun; as is
        `text`."""
        return self._outputs.first.token_ids

    @property
    def text(self) -> str:
        return self._outputs.first.text

    @property
    def usage(self) -> Usage:
        """Of all outputs."""
        return self._outputs.usage

    @property
    def timeline(self) -> Timeline:
        """When what happened to it; the engine goes on writing there until it has finished."""
        return self._sequence.timeline

    @property
    def finished(self) -> bool:
        """Whether all outputs have ended."""
        return self._outputs.finished

    @property
    def finish_reason(self) -> FinishReason | None:
        """How the first output ended, once all have."""
        return self._outputs.first.finish_reason if self.finished else None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        if self._told_end:
            raise StopAsyncIteration
        if self.finished:
            self._told_end = True
            return Delta("", (), self.usage, finish_reason=self.finish_reason)
        while (delta := self._outputs.take()) is None:
            if self._error is not None:
                raise self._error
            await self._news.wait()
            self._news.clear()
        if self.finished:
            self._told_end = True
            if not self._cancelled:
                self._engine.forget(self._sequence)
                self._ended(self.finish_reason)
                self.begin_hold()
        return delta

    def cancel(self) -> None:
        """Ends the request; its blocks are free within one step. Nothing happens if it has finished."""
        if not self.finished and not self._cancelled and self._error is None:
            self._cancelled = True
            self._outputs.cancel()
            self._ended(FinishReason.CANCELLED)
            self._engine.cancel(self._sequence)
            self._news.set()

    def release(self) -> None:
        """Ends the hold on a finished request's blocks, if there is one."""
        if self.held:
            self.take_hold(keep=False)
            self._engine.release(self._sequence)

    def take_hold(self, keep: bool) -> Sequence:
        """The held sequence, for a request that continues it; the hold is ours no longer, unless `keep`."""
        if not keep:
            self.held = False
            if self._expiry is not None:
                self._expiry.cancel()
        return self._sequence

    def receive(self, new: NewToken) -> bool:
        """Called by the engine for each token, in order; whether it is the last of all outputs."""
        self._news.set()
        return self._outputs.receive(new)

    def fail(self, error: EngineStopped) -> None:
        """Called by the engine when it cannot finish the request."""
        self._error = error
        self._ended(None)
        self._news.set()

    def _ended(self, reason: FinishReason | None) -> None:
        sequence = self._sequence
        ends = [each.timeline.finished for each in sequence.request.sequences]
        known = [end for end in ends if end is not None]
        sequence.timeline.finished = max(known) if len(known) == len(ends) else self._engine.now()
        if self._engine.observer is not None:
            report = RequestReport(
                timeline=sequence.timeline,
                usage=self.usage,
                num_resumed_tokens=sequence.num_resumed_tokens,
                params=sequence.params,
                max_tokens=sequence.max_tokens,
                finish_reason=reason,
                error=self._error,
            )
            self._engine.observer.finished(report)

    def begin_hold(self) -> None:
        """From here on the finished request is held, if that was asked."""
        if self._sequence.hold:
            self.held = True
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(self._hold_timeout, self._expire)

    def _expire(self) -> None:
        # The hold stays the client's; only the blocks go. What continues it is computed again.
        self._engine.release(self._sequence)
