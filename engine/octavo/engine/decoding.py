"""What the draws of a step mean to its sequences: a token each, forks, guesses that came true, beams."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from octavo.engine.block_manager import extend_hashes
from octavo.engine.config import BLOCK_SIZE
from octavo.engine.output import FinishReason, TokenLogprobs
from octavo.engine.sequence import Sequence, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo.engine.batch import StepOutput
    from octavo.engine.batching import Draw
    from octavo.engine.beam_search import BeamSearch
    from octavo.engine.block_manager import BlockManager
    from octavo.engine.request import Request
    from octavo.engine.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class NewToken:
    """One token of an output, and why the output ends with it, if it does.

    Drawn, or without a choice; those of a beam search's hypotheses come when it is over, with their score.
    """

    sequence: Sequence
    token_id: int
    logprobs: TokenLogprobs | None
    finish_reason: FinishReason | None
    score: float | None = None


class Decoding:
    """Advances sequences by what a step drew."""

    def __init__(
        self,
        blocks: BlockManager,
        scheduler: Scheduler,
        finish: Callable[[Sequence, FinishReason], None],
        *,
        prefix_caching: bool,
    ) -> None:
        self._blocks = blocks
        self._scheduler = scheduler
        self._finish = finish
        self._prefix_caching = prefix_caching

    def take(self, draw: Draw, output: StepOutput, now: int, new: list[NewToken]) -> int:
        """Appends the draw's tokens to `new`; how many guesses came true."""
        sequence, request = draw.sequence, draw.sequence.request
        if request.beams is not None:
            self._search(request.beams, sequence, output, draw.row, now, new)
            return 0
        if request.shared:
            request.shared = False
            for sibling in draw.takers[1:]:
                self._fork(sequence, sibling)
            for i, taker in enumerate(draw.takers):
                self._advance(taker, output, draw.row + i, now, new)
            return 0
        return self._verify(sequence, output, draw.row, now, new)

    def _verify(self, sequence: Sequence, output: StepOutput, row: int, now: int, new: list[NewToken]) -> int:
        """Keeps the draws up to the first that differs from what was guessed; how many guesses came true.

        Each token is drawn from the model's own distribution by its own random number, as if nothing had been
        guessed. For a guess that is certain of itself this is what rejection sampling does (Leviathan et al.,
        2023): it is accepted with the probability that the model gives it.
        """
        draft, sequence.draft = sequence.draft, []
        accepted = 0
        while True:
            goes_on = self._advance(sequence, output, row + accepted, now, new)
            if accepted == len(draft) or new[-1].token_id != draft[accepted]:
                break
            accepted += 1
            if not goes_on or not sequence.may_guess:
                break
            sequence.num_computed_tokens += 1
            self._blocks.commit(sequence.table, sequence.hashes, sequence.num_computed_tokens)
        if draft:
            self._blocks.truncate(sequence.table, sequence.num_computed_tokens)
        return accepted

    def _advance(
        self, sequence: Sequence, output: StepOutput, row: int, now: int, new: list[NewToken]
    ) -> bool:
        """Appends what was drawn, and what must follow it; whether the sequence goes on."""
        asked = sequence.params.logprobs
        if asked is None and sequence.params.best_of is not None:
            asked = 0
        logprobs = logprobs_of(output, row, asked) if asked is not None else None
        goes_on = self._append(sequence, int(output.token_ids[row]), logprobs, now, new)
        if sequence.constraint is not None and goes_on:
            for token_id in sequence.constraint.forced():
                if not self._append(sequence, token_id, None, now, new):
                    return False
        return goes_on

    def _append(
        self,
        sequence: Sequence,
        token_id: int,
        logprobs: TokenLogprobs | None,
        now: int,
        new: list[NewToken],
    ) -> bool:
        timeline = sequence.timeline
        timeline.last_token = now
        if timeline.first_token is None:
            timeline.first_token = now
        sequence.token_ids.append(token_id)
        self._extend_hashes(sequence)
        if sequence.constraint is not None:
            sequence.constraint.accept(token_id)
        reason = sequence.end
        if reason is not None:
            timeline.finished = now
            self._finish(sequence, reason)
        elif sequence.is_behind:
            self._scheduler.pause(sequence)
        new.append(NewToken(sequence, token_id, logprobs, reason))
        return reason is None

    def _search(
        self,
        beams: BeamSearch,
        sequence: Sequence,
        output: StepOutput,
        row: int,
        now: int,
        new: list[NewToken],
    ) -> None:
        """Takes a beam's candidates; once all beams have theirs, goes on with the best or ends the search."""
        assert output.candidate_ids is not None
        assert output.candidate_logprobs is not None
        count = beams.num_candidates
        if not beams.offer(
            sequence.index, output.candidate_ids[row, :count], output.candidate_logprobs[row, :count]
        ):
            return
        request = sequence.request
        first = request.first.num_prompt_tokens
        steps = beams.advance({beam.index: beam.token_ids[first:] for beam in request.sequences})
        if not steps:
            self._end_search(request, beams, now, new)
            return
        request.shared = False
        for slot, step in enumerate(steps):
            if step.parent != slot:
                self._fork(request.sequences[step.parent], request.sequences[slot])
        for beam, step in zip(request.sequences, steps, strict=True):
            beam.token_ids.append(step.token_id)
            self._extend_hashes(beam)

    def _end_search(self, request: Request, beams: BeamSearch, now: int, new: list[NewToken]) -> None:
        prompt = request.first.token_ids[: request.first.num_prompt_tokens]
        for index, sequence in enumerate(request.sequences):
            hypothesis = beams.hypotheses[index]
            sequence.timeline.finished = now
            self._finish(sequence, hypothesis.finish_reason)
            if index >= request.params.n:
                continue
            sequence.timeline.first_token = sequence.timeline.last_token = now
            sequence.token_ids = prompt + array("i", hypothesis.token_ids)
            last = len(hypothesis.token_ids) - 1
            for i, token_id in enumerate(hypothesis.token_ids):
                reason, score = (hypothesis.finish_reason, hypothesis.score) if i == last else (None, None)
                new.append(NewToken(sequence, token_id, None, reason, score))

    def _fork(self, parent: Sequence, child: Sequence) -> None:
        """Has a sibling go on from where a sequence is, on the same blocks."""
        self._blocks.release(child.table)
        child.table = self._blocks.fork(parent.table)
        child.token_ids = parent.token_ids[:]
        child.hashes = parent.hashes[:]
        child.num_computed_tokens = parent.num_computed_tokens
        child.num_cached_tokens = parent.num_cached_tokens
        child.sampling.follow(parent.sampling)
        child.timeline.scheduled = parent.timeline.scheduled
        if child.status is Status.NEW:
            self._scheduler.add(child)

    def _extend_hashes(self, sequence: Sequence) -> None:
        if self._prefix_caching and len(sequence.token_ids) >= (len(sequence.hashes) + 1) * BLOCK_SIZE:
            extend_hashes(sequence.hashes, sequence.token_ids)


def logprobs_of(output: StepOutput, row: int, asked: int) -> TokenLogprobs:
    assert output.logprobs is not None
    assert output.top_ids is not None
    assert output.top_logprobs is not None
    top = zip(output.top_ids[row, :asked].tolist(), output.top_logprobs[row, :asked].tolist(), strict=True)
    return TokenLogprobs(int(output.token_ids[row]), float(output.logprobs[row]), tuple(top))
