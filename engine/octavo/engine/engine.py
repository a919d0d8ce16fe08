"""The engine loop, one step at a time: schedule → batch → runner → tokens → advance. One thread, no text."""

from __future__ import annotations

import secrets
import time
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from octavo.engine.batching import build_batch
from octavo.engine.block_manager import BlockManager, extend_hashes
from octavo.engine.config import BLOCK_SIZE
from octavo.engine.errors import ConfigError, InvalidRequest, Violation
from octavo.engine.info import EngineLoad, ModelInfo
from octavo.engine.memory import count_blocks
from octavo.engine.models.spec import DynamicScaling
from octavo.engine.observer import StepReport
from octavo.engine.output import FinishReason, TokenLogprobs
from octavo.engine.sampling_state import SamplingState
from octavo.engine.scheduler import Scheduler
from octavo.engine.sequence import Sequence, Status
from octavo.engine.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Sequence as Tokens

    from octavo.engine.batch import StepOutput
    from octavo.engine.config import EngineConfig
    from octavo.engine.models.files import ModelFiles
    from octavo.engine.params import SamplingParams
    from octavo.engine.resumption import Resumption
    from octavo.engine.runners import Runner
    from octavo.engine.scheduler import StepPlan


@dataclass(frozen=True, slots=True)
class NewToken:
    """One token that a step drew, and why the sequence ends with it, if it does."""

    sequence: Sequence
    token_id: int
    logprobs: TokenLogprobs | None
    finish_reason: FinishReason | None


class Engine:
    """Sequences in, tokens out. Not thread-safe: `AsyncEngine` and `LLM` each call it from one thread."""

    def __init__(
        self,
        runner: Runner,
        model: ModelInfo,
        config: EngineConfig,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """clock: nanoseconds since the epoch, for timelines.

        last_step: what the last step did; None if there was nothing to compute.
        """
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
        self._num_sequences = 0
        self._num_output_tokens = 0
        self._num_added = 0
        self._num_finished = 0
        self._num_prompt_tokens = 0
        self._num_cached_tokens = 0
        self.last_step: StepReport | None = None

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    def make_sequence(
        self,
        prompt_token_ids: Tokens[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        hold: bool = False,
        unread_limit: int | None = None,
        resume: Resumption | None = None,
    ) -> Sequence:
        """A sequence for `add`. Raises InvalidRequest with every rule that is broken.

        resume: output that another engine made of this prompt with these parameters. It is this sequence's
            own output from here on, and read already.
        """
        violations = params.violations(self.model.vocab_size)
        violations += self._prompt_violations(prompt_token_ids)
        if not -(2**31) <= priority < 2**31:
            violations.append(Violation("priority", priority, "must be a signed 32-bit integer"))
        room = self.model.max_model_len - len(prompt_token_ids)
        stop_tokens = frozenset(
            (*params.stop_token_ids, *(() if params.ignore_eos else self.model.eos_token_ids))
        )
        if resume is not None and not violations:
            violations = resume.violations(
                params, stop_tokens=stop_tokens, room=room, hold=hold, vocab_size=self.model.vocab_size
            )
        if violations:
            raise InvalidRequest(*violations)
        seed = secrets.randbits(64) if params.seed is None else params.seed
        resumed = resume.token_ids if resume is not None else ()
        sequence = Sequence(
            number=self._num_sequences,
            token_ids=array("i", (*prompt_token_ids, *resumed)),
            num_prompt_tokens=len(prompt_token_ids),
            params=params,
            sampling=SamplingState(params, seed, len(prompt_token_ids)),
            max_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
            stop_tokens=stop_tokens,
            timeline=Timeline(self.clock()),
            num_resumed_tokens=len(resumed),
            priority=priority,
            hold=hold,
            unread_limit=unread_limit,
            num_read_tokens=len(resumed),
        )
        self._num_sequences += 1
        self._extend_hashes(sequence)
        return sequence

    def add(self, sequence: Sequence, continues: Sequence | None = None, keep_parent: bool = False) -> None:
        """Queues a sequence.

        continues: a finished, held sequence. Where the new one begins with the same tokens, its blocks pass
            over, or are shared if the parent is to be kept, and nothing of it is computed again.
        """
        if continues is not None:
            self._take_over(sequence, continues, keep_parent)
        self._num_added += 1
        self._num_prompt_tokens += sequence.num_prompt_tokens
        self._scheduler.add(sequence)

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
        self._num_finished += 1
        self._scheduler.finish(sequence)

    def release(self, sequence: Sequence) -> None:
        """Gives back the blocks of a finished sequence, if it is held."""
        self._scheduler.release(sequence)

    def resume(self, sequence: Sequence) -> None:
        """Goes on with a sequence that paused because its reader had fallen behind."""
        if sequence.status is Status.PAUSED:
            self._scheduler.resume(sequence)

    def step(self) -> list[NewToken]:
        """Computes one step; the tokens that it drew. The sequences that end are finished already."""
        started = self.clock()
        plan = self._scheduler.schedule()
        num_hit_tokens = self._note(plan, started)
        num_queried_tokens = sum(len(sequence.token_ids) for sequence in plan.begun)
        self.last_step = None
        if not plan.chunks:
            return []
        batch, sampled = build_batch(plan)
        output = self._runner.run(batch)
        ended = self.clock()
        num_decode_tokens = 0
        for sequence, count in plan.chunks:
            num_decode_tokens += sequence.is_decoding and sequence.num_output_tokens > 0
            sequence.num_computed_tokens += count
            self._blocks.commit(sequence.table, sequence.hashes, sequence.num_computed_tokens)
        gaps = [ended - s.timeline.last_token for s in sampled if s.timeline.last_token is not None]
        waits = [ended - s.timeline.arrived for s in sampled if s.timeline.last_token is None]
        new_tokens = [self._advance(sequence, output, row, ended) for row, sequence in enumerate(sampled)]
        self._num_output_tokens += len(new_tokens)
        self.last_step = StepReport(
            started=started,
            ended=ended,
            num_prefill_tokens=len(batch.token_ids) - num_decode_tokens,
            num_decode_tokens=num_decode_tokens,
            num_drawn_tokens=len(new_tokens),
            num_queried_tokens=num_queried_tokens,
            num_hit_tokens=num_hit_tokens,
            num_preemptions=len(plan.preempted),
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

    def _note(self, plan: StepPlan, now: int) -> int:
        """Writes down what the plan means to its sequences; how many tokens it has found in the cache."""
        for sequence in plan.preempted:
            sequence.timeline.preemptions += (now,)
        for sequence in plan.begun:
            sequence.timeline.scheduled = now
            self._num_cached_tokens += sequence.num_cached_tokens or 0
        return sum(sequence.num_computed_tokens for sequence in plan.begun)

    def _advance(self, sequence: Sequence, output: StepOutput, row: int, now: int) -> NewToken:
        token_id = int(output.token_ids[row])
        timeline = sequence.timeline
        timeline.last_token = now
        if timeline.first_token is None:
            timeline.first_token = now
        sequence.token_ids.append(token_id)
        self._extend_hashes(sequence)
        reason = sequence.end
        if reason is not None:
            timeline.finished = now
            self.finish(sequence, reason)
        elif sequence.is_behind:
            self._scheduler.pause(sequence)
        asked = sequence.params.logprobs
        return NewToken(sequence, token_id, _logprobs(output, row, asked), reason)

    def _take_over(self, sequence: Sequence, parent: Sequence, keep_parent: bool) -> None:
        limit = min(parent.num_computed_tokens, len(sequence.token_ids) - 1)
        ours, theirs = np.array(sequence.token_ids[:limit]), np.array(parent.token_ids[:limit])
        different = np.flatnonzero(ours != theirs)
        shared = int(different[0]) if len(different) else limit
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

    def _extend_hashes(self, sequence: Sequence) -> None:
        if self._config.prefix_caching:
            extend_hashes(sequence.hashes, sequence.token_ids)

    def _prompt_violations(self, prompt: Tokens[int]) -> list[Violation]:
        if not len(prompt):
            return [Violation("prompt", [], "must not be empty")]
        if len(prompt) >= self.model.max_model_len:
            rule = f"must be shorter than the context of {self.model.max_model_len} tokens"
            return [Violation("prompt", f"{len(prompt)} tokens", rule)]
        if min(prompt) < 0 or max(prompt) >= self.model.vocab_size:
            unknown = next(token for token in prompt if not 0 <= token < self.model.vocab_size)
            return [Violation("prompt", unknown, f"token ids must be in [0, {self.model.vocab_size})")]
        return []


def load_engine(
    files: ModelFiles, config: EngineConfig, on_weight: Callable[[str], None] = lambda name: None
) -> Engine:
    """An engine with weights loaded and KV pool allocated. Raises ConfigError or ModelError."""
    from octavo.engine.runners.torch import TorchRunner  # imports torch, which takes seconds

    _check_sizes(config)
    context = _context_length(files, config)
    runner: Runner = TorchRunner(files, config, context, on_weight)
    blocks_of_context = -(-context // BLOCK_SIZE)
    num_blocks = count_blocks(
        config.kv_cache_memory,
        free=runner.free_memory(),
        block_bytes=runner.block_bytes,
        max_useful=blocks_of_context * config.max_num_seqs,
        min_needed=blocks_of_context if config.max_model_len else 2,
        device=runner.device,
    )
    runner.allocate(num_blocks)
    model = ModelInfo(
        name=files.name,
        family=files.spec.family,
        dtype=runner.dtype,
        device=runner.device,
        vocab_size=files.spec.vocab_size,
        # One sequence must never outgrow the pool: the oldest could not be made room for.
        max_model_len=min(context, num_blocks * BLOCK_SIZE),
        eos_token_ids=files.eos_token_ids,
        block_size=BLOCK_SIZE,
        num_blocks=num_blocks,
        block_bytes=runner.block_bytes,
    )
    return Engine(runner, model, config)


def _context_length(files: ModelFiles, config: EngineConfig) -> int:
    trained = files.spec.max_position
    extensible = isinstance(files.spec.rope.scaling, DynamicScaling)
    if config.max_model_len and config.max_model_len > trained and not extensible:
        raise ConfigError(
            f"max_model_len: must not exceed the {trained} tokens that {files.name} was made for "
            f"(got {config.max_model_len})"
        )
    return config.max_model_len or trained


def _check_sizes(config: EngineConfig) -> None:
    for name in ("max_num_seqs", "max_waiting", "stream_buffer"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name}: must be at least 1 (got {getattr(config, name)})")
    for name in ("threads", "max_model_len"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name}: must be at least 1 (got {value})")
    if config.max_num_batched_tokens < config.max_num_seqs:
        raise ConfigError(
            f"max_num_batched_tokens: must be at least max_num_seqs, {config.max_num_seqs}, "
            f"so that every decode gets its token (got {config.max_num_batched_tokens})"
        )
    if not config.hold_timeout >= 0:
        raise ConfigError(f"hold_timeout: must not be negative (got {config.hold_timeout})")


def _logprobs(output: StepOutput, row: int, asked: int | None) -> TokenLogprobs | None:
    if asked is None:
        return None
    assert output.logprobs is not None
    assert output.top_ids is not None
    assert output.top_logprobs is not None
    top = zip(output.top_ids[row, :asked].tolist(), output.top_logprobs[row, :asked].tolist(), strict=True)
    return TokenLogprobs(int(output.token_ids[row]), float(output.logprobs[row]), tuple(top))
