"""The engine loop, one step at a time: schedule → batch → runner → tokens → advance. One thread, no text."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from octavo.engine.block_manager import BlockManager
from octavo.engine.config import BLOCK_SIZE
from octavo.engine.constraints import NONE
from octavo.engine.decoding import Decoding, NewToken, logprobs_of
from octavo.engine.info import EngineLoad, ModelInfo
from octavo.engine.intake import Intake
from octavo.engine.masks import Masking
from octavo.engine.observer import StepReport
from octavo.engine.output import FinishReason
from octavo.engine.planned_step import PlannedStep
from octavo.engine.runners import Shared, Submitting
from octavo.engine.scheduler import Scheduler
from octavo.engine.sequence import Sequence, Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Sequence as Tokens

    from octavo.engine.batch import StepOutput
    from octavo.engine.config import EngineConfig
    from octavo.engine.constraints import Constraints
    from octavo.engine.errors import RankLost
    from octavo.engine.params import SamplingParams
    from octavo.engine.resumption import Resumption
    from octavo.engine.runners import Runner, Submitted
    from octavo.engine.scheduler import StepPlan
    from octavo.engine.speculation.speculator import Speculator


class Engine:
    """Sequences in, tokens out. Not thread-safe: `AsyncEngine` and `LLM` each call it from one thread."""

    def __init__(
        self,
        runner: Runner,
        model: ModelInfo,
        config: EngineConfig,
        clock: Callable[[], int] = time.time_ns,
        speculator: Speculator | None = None,
        overlap: bool = False,
    ) -> None:
        """clock: nanoseconds since the epoch, for timelines. speculator: guesses tokens; None for no guesses.
        overlap: whether the next step is planned while one runs (see `planned_step`); not with guesses.

        last_step: what the last step did; None if there was nothing to compute.
        """
        assert not (overlap and speculator), "a guess is made from tokens that are known"
        self.model = model
        self.clock = clock
        self._runner = runner
        self._config = config
        self._blocks = BlockManager(model.num_blocks)
        self._scheduler = Scheduler(
            self._blocks,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
        )
        self._intake = Intake(config, clock)
        self._masking = Masking(model.vocab_size)
        self._speculator = speculator
        self._decoding = Decoding(
            self._blocks, self._scheduler, self.finish, prefix_caching=config.prefix_caching
        )
        self._overlap = overlap
        self._ahead: tuple[PlannedStep, Submitted] | None = None
        self._last_ended = 0
        self._num_output_tokens = 0
        self._num_added = 0
        self._num_finished = 0
        self._num_prompt_tokens = 0
        self._num_cached_tokens = 0
        self.last_step: StepReport | None = None

    def watch(self, on_loss: Callable[[RankLost], None]) -> None:
        """Has `on_loss` called, from another thread, if a process that takes part in this engine is lost.

        Also while nothing is computed, or while `step` waits for what will never come.
        """
        if isinstance(self._runner, Shared):
            self._runner.watch(on_loss)

    def close(self) -> None:
        """Ends the processes that take part. Nothing can be computed any longer."""
        if isinstance(self._runner, Shared):
            self._runner.close()

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work or self._ahead is not None

    def make_sequence(
        self,
        prompt_token_ids: Tokens[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        hold: bool = False,
        unread_limit: int | None = None,
        resume: Resumption | None = None,
        constraints: Constraints = NONE,
    ) -> Sequence:
        """A sequence for `add`, the first one of its request. InvalidRequest tells every rule that is broken.

        resume: output that another engine made of this prompt with these parameters. It is this sequence's
            own output from here on, and read already.
        constraints: what `ConstraintCompiler` has made of the parameters.
        """
        return self._intake.sequence(
            self.model,
            prompt_token_ids,
            params,
            priority=priority,
            hold=hold,
            unread_limit=unread_limit,
            resume=resume,
            constraints=constraints,
        )

    def add(self, sequence: Sequence, continues: Sequence | None = None, keep_parent: bool = False) -> None:
        """Queues a request by its first sequence.

        continues: a finished, held sequence. Where the new one begins with the same tokens, its blocks pass
            over, or are shared if the parent is to be kept, and nothing of it is computed again.
        """
        request = sequence.request
        if continues is not None:
            self._take_over(sequence, continues, keep_parent)
        self._num_added += 1
        self._num_prompt_tokens += sequence.num_prompt_tokens
        for queued in request.sequences[:1] if request.shared else request.sequences:
            if queued.status is Status.NEW:
                self._scheduler.add(queued)

    def finish(self, sequence: Sequence, reason: FinishReason, num_output_tokens: int | None = None) -> None:
        """Ends a live sequence, as if it had ended after `num_output_tokens`, if that is given."""
        if num_output_tokens is not None:
            self._cut(sequence, sequence.num_prompt_tokens + num_output_tokens)
        if sequence.status is Status.FINISHED:
            if reason is FinishReason.CANCELLED:
                self.release(sequence)
            return
        sequence.hold = sequence.hold and reason is not FinishReason.CANCELLED
        sequence.finish_reason = reason
        self._scheduler.finish(sequence)
        if self._speculator is not None:
            self._speculator.forget(sequence)
        self._num_finished += all(s.status is Status.FINISHED for s in sequence.request.sequences)

    def cancel(self, sequence: Sequence) -> None:
        """Ends a request by its first sequence, and gives back all that it holds."""
        for each in sequence.request.sequences:
            self.finish(each, FinishReason.CANCELLED)

    def release(self, sequence: Sequence) -> None:
        """Gives back the blocks of a finished sequence, if it is held."""
        self._scheduler.release(sequence)

    def resume(self, sequence: Sequence) -> None:
        """Goes on with a sequence that paused because its reader had fallen behind."""
        if sequence.status is Status.PAUSED:
            self._scheduler.resume(sequence)

    def step(self) -> list[NewToken]:
        """Computes one step; the tokens that it drew. The sequences that end are finished already."""
        self.last_step = None
        if self._overlap:
            return self._overlapped_step()
        self._guess()
        step = self._plan()
        if step is None:
            return []
        output = self._runner.run(step.batch)
        step.settle(self._blocks)
        return self._take(step, output)

    def _overlapped_step(self) -> list[NewToken]:
        """The same tokens, while the step after it is planned and submitted as far as it can be."""
        current, self._ahead = self._ahead or self._submit(), None
        if current is None:
            return []
        step, submitted = current
        step.settle(self._blocks)
        if step.can_be_followed(self._scheduler.running):
            with step.placeholders():
                self._ahead = self._submit()
        return self._take(step, submitted.result())

    def _submit(self) -> tuple[PlannedStep, Submitted] | None:
        assert isinstance(self._runner, Submitting)
        step = self._plan()
        return None if step is None else (step, self._runner.submit(step.batch))

    def _plan(self) -> PlannedStep | None:
        """The next step; None if there is nothing to compute."""
        started, clock = self.clock(), time.perf_counter()
        plan = self._scheduler.schedule()
        num_hit_tokens = self._note(plan, started)
        if not plan.chunks:
            return None
        return PlannedStep.of(plan, self._masking, started, clock, num_hit_tokens)

    def _take(self, step: PlannedStep, output: StepOutput) -> list[NewToken]:
        """Advances the sequences of a settled step by what it drew."""
        started, ended = max(step.started, self._last_ended), self.clock()
        self._last_ended = ended
        for sequence, rows in step.scored():
            asked = sequence.params.prompt_logprobs
            assert output.scored is not None
            assert asked is not None
            sequence.request.prompt_logprobs += [logprobs_of(output.scored, row, asked) for row in rows]
        drawn = [draw.sequence for draw in step.draws if draw.sequence.request.beams is None]
        gaps = [ended - s.timeline.last_token for s in drawn if s.timeline.last_token is not None]
        waits = [ended - s.timeline.arrived for s in drawn if s.timeline.last_token is None]
        new_tokens: list[NewToken] = []
        num_accepted = 0
        for draw in step.draws:
            num_proposed = len(draw.sequence.draft)
            accepted = self._decoding.take(draw, output, ended, new_tokens)
            num_accepted += accepted
            if num_proposed and self._speculator is not None:
                self._speculator.verified(draw.sequence, num_proposed, accepted)
        if self._speculator is not None and step.num_decode_tokens == len(step.chunks):
            seconds = time.perf_counter() - step.clock
            self._speculator.timed(len(step.batch.token_ids), len(step.chunks), seconds)
        self._num_output_tokens += len(new_tokens)
        self.last_step = StepReport(
            started=started,
            ended=ended,
            num_prefill_tokens=step.num_tokens - step.num_decode_tokens,
            num_decode_tokens=step.num_decode_tokens,
            num_drawn_tokens=len(new_tokens),
            num_queried_tokens=step.num_queried_tokens,
            num_hit_tokens=step.num_hit_tokens,
            num_preemptions=step.num_preemptions,
            num_guessed_tokens=step.num_guesses,
            num_accepted_tokens=num_accepted,
            token_gaps=tuple(gaps),
            first_token_waits=tuple(waits),
        )
        return new_tokens

    def load(self) -> EngineLoad:
        """The load now, but for the rate and the draining, which only the front knows."""
        scheduler = self._scheduler
        return EngineLoad(
            total_blocks=self._blocks.num_blocks,
            held_blocks=self._blocks.num_held,
            cached_blocks=self._blocks.num_cached,
            running=len(scheduler.running) + len(scheduler.paused),
            waiting=len(scheduler.waiting),
            waiting_tokens=sum(sequence.num_uncomputed_tokens for sequence in scheduler.waiting),
            prefill_tokens=sum(s.num_uncomputed_tokens for s in scheduler.running if not s.is_decoding),
            max_num_seqs=self._config.max_num_seqs,
            output_tokens_per_second=0.0,
            total_output_tokens=self._num_output_tokens,
            preemptions=scheduler.num_preemptions,
            total_requests=self._num_added,
            total_finished_requests=self._num_finished,
            total_prompt_tokens=self._num_prompt_tokens,
            total_cached_prompt_tokens=self._num_cached_tokens,
            draining=False,
        )

    def check(self) -> None:
        """Asserts that no block is lost or counted wrong. For tests and idle moments."""
        self._blocks.check(sequence.table for sequence in self._scheduler.sequences())

    def _guess(self) -> None:
        """Has tokens guessed for the sequences that decode."""
        if self._speculator is not None:
            decoding = [s for s in self._scheduler.running if s.is_decoding]
            may = [s for s in decoding if s.may_guess and s.max_tokens - s.num_output_tokens > 1]
            if may:
                self._speculator.propose(may, len(decoding) - len(may))

    def _note(self, plan: StepPlan, now: int) -> int:
        """Writes down what the plan means to its sequences; how many tokens it has found in the cache."""
        for sequence in plan.preempted:
            sequence.timeline.preemptions += (now,)
            if self._speculator is not None:
                self._speculator.forget(sequence)
        for sequence in plan.begun:
            sequence.timeline.scheduled = now
            self._num_cached_tokens += sequence.num_cached_tokens or 0
        return sum(sequence.num_computed_tokens for sequence in plan.begun)

    def _take_over(self, sequence: Sequence, parent: Sequence, keep_parent: bool) -> None:
        limit = min(parent.num_computed_tokens, len(sequence.token_ids) - 1)
        ours, theirs = np.array(sequence.token_ids[:limit]), np.array(parent.token_ids[:limit])
        different = np.flatnonzero(ours != theirs)
        shared = int(different[0]) if len(different) else limit
        if not sequence.uses_cache:
            shared = 0
        sequence.table = self._blocks.fork(parent.table)
        self._blocks.truncate(sequence.table, shared)
        sequence.num_computed_tokens = shared
        if not keep_parent:
            self.release(parent)

    def _cut(self, sequence: Sequence, num_tokens: int) -> None:
        if num_tokens < len(sequence.token_ids):
            del sequence.token_ids[num_tokens:]
            del sequence.hashes[num_tokens // BLOCK_SIZE :]
            sequence.num_computed_tokens = min(sequence.num_computed_tokens, num_tokens)
            self._blocks.truncate(sequence.table, sequence.num_computed_tokens)
