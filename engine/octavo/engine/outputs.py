"""The outputs of one request as they are told: each delta by delta, or the best ones when all have ended."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from octavo.engine.assembler import Assembler
from octavo.engine.output import Delta, FinishReason, Usage
from octavo.engine.sequence import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from octavo.engine.decoding import NewToken
    from octavo.engine.resumption import Resumption
    from octavo.engine.sequence import Sequence
    from octavo.engine.tokenizer import Tokenizer


class Producer(Protocol):
    """Who computes the outputs, as far as their reader has a say."""

    def resume(self, sequence: Sequence) -> None:
        """The reader has caught up."""
        ...

    def end(self, sequence: Sequence, reason: FinishReason, num_output_tokens: int) -> None:
        """The output has ended with this many tokens, by what its text is."""
        ...


class Outputs:
    """Takes tokens in as they come, gives deltas out as they are read."""

    def __init__(
        self, producer: Producer, sequence: Sequence, tokenizer: Tokenizer, resume: Resumption | None = None
    ) -> None:
        """sequence: the first of the request. resume: what it was made with; InvalidRequest if wrong."""
        self._producer = producer
        self._request = request = sequence.request
        params = request.params
        self._several = len(request.sequences) > 1
        self._ranked = params.best_of is not None
        self._sequences = request.sequences[: params.n] if request.beams else request.sequences
        told = resume.outputs if self._several and resume is not None else (resume,) * len(self._sequences)
        self._outputs = [
            Assembler(each, tokenizer, before) for each, before in zip(self._sequences, told, strict=True)
        ]
        self._pending: dict[int, list[NewToken]] = {}
        self._coming = {i for i, output in enumerate(self._outputs) if output.finish_reason is None}
        self._best: deque[Delta] | None = None
        self._over = deque(self._ended_unnoticed(resume)) if self._several and resume is not None else deque()
        self._cancelled = False
        self._owes_prompt = request.num_prompt_logprobs > 0

    @property
    def first(self) -> Assembler:
        return self._outputs[0]

    @property
    def usage(self) -> Usage:
        """Of all outputs together."""
        sequence = self._sequences[0]
        num_output_tokens = sum(len(output.token_ids) for output in self._outputs)
        return Usage(sequence.num_prompt_tokens, num_output_tokens, sequence.num_cached_tokens or 0)

    @property
    def finished(self) -> bool:
        """Whether all outputs have ended, and all that is told of them was taken."""
        return (
            not self._best
            and not self._over
            and all(output.finish_reason is not None for output in self._outputs)
        )

    @property
    def num_pending(self) -> int:
        """Tokens that have come and are not read."""
        return sum(map(len, self._pending.values()))

    def receive(self, new: NewToken) -> bool:
        """A token has come, in order; whether it is the last of all."""
        index = new.sequence.index
        self._pending.setdefault(index, []).append(new)
        if new.finish_reason is not None:
            self._coming.discard(index)
        return not self._coming

    def cancel(self) -> None:
        """Ends what has not ended: no more tokens come."""
        self._cancelled = True
        for index, output in enumerate(self._outputs):
            if output.finish_reason is None:
                self._pending.setdefault(index, [])

    def take(self) -> Delta | None:
        """The next delta; None until more tokens have come."""
        if self._over:
            index = self._over.popleft()
            return Delta("", (), self.usage, finish_reason=self._outputs[index].finish_reason, index=index)
        while self._best is None and self._pending:
            index = next(iter(self._pending))
            delta = self._read(index, self._pending.pop(index))
            if delta is not None and not self._ranked:
                return self._with_prompt(delta)
        if self._ranked and self._best is None and self.finished:
            self._best = self._choose()
        return self._with_prompt(self._best.popleft()) if self._best else None

    def _ended_unnoticed(self, resume: Resumption) -> Iterator[int]:
        """Outputs that were told to their end by an engine that could not tell that it was one."""
        for index, (output, before) in enumerate(zip(self._outputs, resume.outputs, strict=True)):
            if output.finish_reason is not None and before.finish_reason is None:
                sequence = self._sequences[index]
                sequence.status, sequence.finish_reason = Status.FINISHED, output.finish_reason
                yield index

    def _read(self, index: int, new: list[NewToken]) -> Delta | None:
        output, sequence = self._outputs[index], self._sequences[index]
        if output.finish_reason is not None:
            return None  # a stop string had ended it before these were drawn
        sequence.num_read_tokens += len(new)
        # The engine pauses a sequence before it delivers the token that was one too many.
        if sequence.status is Status.PAUSED:
            self._producer.resume(sequence)
        delta = output.take(new, FinishReason.CANCELLED if self._cancelled else None)
        if delta.finish_reason is FinishReason.STOP and not self._cancelled:
            # A stop string is found here, where the text is, so the engine is told how many tokens count.
            self._producer.end(sequence, FinishReason.STOP, len(output.token_ids))
        if delta.finish_reason is not None:
            self._coming.discard(index)
        return replace(delta, usage=self.usage) if self._several else delta

    def _choose(self) -> deque[Delta]:
        """The deltas of the best outputs, one each, likeliest first."""
        params = self._request.params
        best = sorted(self._outputs, key=_mean_logprob, reverse=True)[: params.n]
        return deque(
            Delta(
                text=output.text,
                token_ids=tuple(output.token_ids),
                usage=self.usage,
                logprobs=tuple(output.logprobs) if params.logprobs is not None else (),
                finish_reason=output.finish_reason,
                index=rank,
                reasoning=output.reasoning,
                score=_mean_logprob(output),
            )
            for rank, output in enumerate(best)
        )

    def _with_prompt(self, delta: Delta) -> Delta:
        if not self._owes_prompt or delta.index or not delta.token_ids:
            return delta
        self._owes_prompt = False
        return replace(delta, prompt_logprobs=tuple(self._request.prompt_logprobs))


def _mean_logprob(output: Assembler) -> float:
    logprobs = [entry.logprob for entry in output.logprobs]
    return sum(logprobs) / len(logprobs) if logprobs else -math.inf
