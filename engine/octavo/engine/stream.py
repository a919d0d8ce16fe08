"""One request as its client sees it: an asynchronous iterator of deltas."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from octavo.engine.assembler import Assembler
from octavo.engine.observer import RequestReport
from octavo.engine.output import Delta, FinishReason
from octavo.engine.sequence import Status

if TYPE_CHECKING:
    from octavo.engine.async_engine import AsyncEngine
    from octavo.engine.engine import NewToken
    from octavo.engine.errors import EngineStopped
    from octavo.engine.output import Usage
    from octavo.engine.resumption import Resumption
    from octavo.engine.sequence import Sequence
    from octavo.engine.timeline import Timeline
    from octavo.engine.tokenizer import Tokenizer


class Stream:
    """Yields what was produced since the last delta; the last has a finish reason. Raises EngineStopped.

    Text is made when it is read. When a reader lets too many tokens pile up its sequence pauses, and goes on
    once it reads.

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
        self._assembler = Assembler(sequence, tokenizer, resume)
        self._told_end = False
        self._pending: list[NewToken] = []
        self._cancelled = False
        self._error: EngineStopped | None = None
        self._news = asyncio.Event()
        self._expiry: asyncio.TimerHandle | None = None

    @property
    def output_token_ids(self) -> list[int]:
        """Those that were yielded so far, here or where the request was begun, as are `text` and `usage`."""
        return self._assembler.token_ids

    @property
    def text(self) -> str:
        return self._assembler.text

    @property
    def usage(self) -> Usage:
        return self._assembler.usage

    @property
    def timeline(self) -> Timeline:
        """When what happened to it; the engine goes on writing there until it has finished."""
        return self._sequence.timeline

    @property
    def finish_reason(self) -> FinishReason | None:
        return self._assembler.finish_reason

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        if self._told_end:
            raise StopAsyncIteration
        if self.finish_reason is not None:
            self._told_end = True
            return Delta("", (), self.usage, finish_reason=self.finish_reason)
        await self._news.wait()
        if self._error is not None:
            raise self._error
        new_tokens, self._pending = self._pending, []
        self._news.clear()
        self._sequence.num_read_tokens += len(new_tokens)
        # The engine pauses a sequence before it delivers the token that was one too many.
        if self._sequence.status is Status.PAUSED:
            self._engine.resume(self._sequence)
        delta = self._assembler.take(new_tokens, FinishReason.CANCELLED if self._cancelled else None)
        if delta.finish_reason is not None:
            self._told_end = True
            self._finished(delta.finish_reason)
        return delta

    def cancel(self) -> None:
        """Ends the request; its blocks are free within one step. Nothing happens if it has finished."""
        if self.finish_reason is None and not self._cancelled and self._error is None:
            self._cancelled = True
            self._ended(FinishReason.CANCELLED)
            self._engine.end(self._sequence, FinishReason.CANCELLED)
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

    def receive(self, new: NewToken) -> None:
        """Called by the engine for each token, in order."""
        self._pending.append(new)
        self._news.set()

    def fail(self, error: EngineStopped) -> None:
        """Called by the engine when it cannot finish the request."""
        self._error = error
        self._ended(None)
        self._news.set()

    def _finished(self, reason: FinishReason) -> None:
        if self._cancelled:
            return
        # A stop string is found here, where the text is, so the engine is told how many tokens count.
        if reason is FinishReason.STOP:
            self._engine.end(self._sequence, reason, len(self._assembler.token_ids))
        self._ended(reason)
        self.begin_hold()

    def _ended(self, reason: FinishReason | None) -> None:
        sequence = self._sequence
        if sequence.timeline.finished is None:
            sequence.timeline.finished = self._engine.now()
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
