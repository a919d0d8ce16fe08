"""The engine for many concurrent clients: a thread that steps, and a stream per request on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from octavo.engine.constraints import NONE, ConstraintCompiler
from octavo.engine.errors import EngineStopped, InvalidRequest, QueueFull, Violation
from octavo.engine.loading import load_engine
from octavo.engine.models.source import open_model
from octavo.engine.rate import RateMeter
from octavo.engine.sequence import Status
from octavo.engine.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Sequence as Tokens

    from octavo.engine.config import EngineConfig
    from octavo.engine.constraints import Constraints
    from octavo.engine.decoding import NewToken
    from octavo.engine.engine import Engine
    from octavo.engine.info import EngineLoad, ModelInfo
    from octavo.engine.observer import Observer, StepReport
    from octavo.engine.output import FinishReason
    from octavo.engine.params import SamplingParams
    from octavo.engine.resumption import Resumption
    from octavo.engine.sequence import Sequence
    from octavo.engine.tokenizer import Tokenizer


STUCK_FOR = 1.0
"""Seconds to wait for the thread of a failed engine, which may never come back."""


class _Untaken(NamedTuple):
    """What a request that the engine's thread has not taken yet adds to the load."""

    num_tokens: int
    """Still to compute, as far as one knows."""
    num_prompt_tokens: int

    @classmethod
    def of(cls, sequence: Sequence, parent: Sequence | None) -> _Untaken:
        held = parent.num_computed_tokens if parent is not None and parent.table.blocks else 0
        return cls(max(sequence.num_uncomputed_tokens - held, 1), sequence.num_prompt_tokens)


class AsyncEngine:
    """Submit requests, read their streams.

    All methods are for the event loop's thread. The engine itself lives in a thread of its own, which takes
    commands between two steps and never waits for a reader. If it fails, every stream raises EngineStopped
    and `failed` is set.

    observer: is told of every step and of every request's end; None for nobody.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, config: EngineConfig) -> None:
        self.model: ModelInfo = engine.model
        self.tokenizer = tokenizer
        self.failed = asyncio.Event()
        self.observer: Observer | None = None
        self._engine = engine
        self._config = config
        self._constraints = ConstraintCompiler(tokenizer, engine.model)
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._streams: dict[Sequence, Stream] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._load = engine.load()
        self._rate = RateMeter()
        self._untaken: deque[_Untaken] = deque()  # the submitted that `_load` does not count yet
        self._refusal: str | None = "the engine is not started"
        self._running = True
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @classmethod
    def load_model(
        cls, config: EngineConfig, on_weight: Callable[[str], None] = lambda name: None
    ) -> AsyncEngine:
        """Opens and loads the configured model; takes seconds. Raises ModelError or ConfigError.

        on_weight: called with each weight's name as it is loaded.
        """
        files = open_model(config.model, config.revision)
        return cls(load_engine(files, config, on_weight), files.tokenizer(), config)

    async def start(self) -> None:
        """Starts the engine's thread. Streams are delivered on the loop that runs this."""
        self._loop = asyncio.get_running_loop()
        self._refusal = None
        self._engine.watch(self._lose)
        self._thread.start()

    async def compile(self, params: SamplingParams) -> Constraints:
        """What `submit` needs beside the parameters. InvalidRequest for a grammar that is none.

        In a thread: a schema can take a second, and the streams of others must go on.
        """
        if not self._constraints.is_needed(params):
            return NONE
        return await asyncio.to_thread(self._constraints.compile, params)

    def submit(
        self,
        prompt_token_ids: Tokens[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        hold: bool = False,
        continues: Stream | None = None,
        keep_parent: bool = False,
        resume: Resumption | None = None,
        constraints: Constraints = NONE,
    ) -> Stream:
        """Queues a request. Lower `priority` values go first.

        hold: keep its blocks after it has finished, for a later request that continues it.
        continues: a finished stream that is held. `prompt_token_ids` are all tokens, its own and the new
            turn; what is computed there is not computed again. Its hold ends, unless `keep_parent`.
        resume: output that another engine made of this prompt with these parameters; the stream yields what
            follows. If it has ended nothing is queued: the stream has its finish reason from the start, and
            yields one empty delta.
        constraints: of `compile`, of the same parameters.
        Raises InvalidRequest, QueueFull or EngineStopped; nothing is queued then.
        """
        if self._refusal is not None:
            raise EngineStopped(self._refusal)
        sequence = self._engine.make_sequence(
            prompt_token_ids,
            params,
            priority=priority,
            hold=hold,
            unread_limit=self._config.stream_buffer,
            resume=resume,
            constraints=constraints,
        )
        if continues is not None and params.prompt_logprobs is not None:
            rule = "must not be set for a continuation: its prompt is not computed again"
            raise InvalidRequest(Violation("sampling.prompt_logprobs", params.prompt_logprobs, rule))
        waiting = self._num_waiting()
        if waiting >= self._config.max_waiting:
            raise QueueFull(waiting, retry_after=self._seconds_for_a_place())
        stream = Stream(self, sequence, self.tokenizer, self._config.hold_timeout, resume)
        parent = continues.take_hold(keep_parent) if continues is not None else None
        if stream.finish_reason is not None:
            sequence.status = Status.FINISHED
            sequence.timeline.finished = sequence.timeline.arrived
            stream.begin_hold()
            if parent is not None and not keep_parent:
                self.release(parent)
            return stream
        self._streams[sequence] = stream
        self._idle.clear()
        self._untaken.append(_Untaken.of(sequence, parent))
        self._commands.put(lambda: self._engine.add(sequence, parent, keep_parent))
        return stream

    def load(self) -> EngineLoad:
        """The load after the last step, and what was submitted since."""
        last, untaken = self._load, self._untaken
        return replace(
            last,
            waiting=self._num_waiting(),
            waiting_tokens=last.waiting_tokens + sum(request.num_tokens for request in untaken),
            total_requests=last.total_requests + len(untaken),
            total_prompt_tokens=last.total_prompt_tokens + sum(r.num_prompt_tokens for r in untaken),
            output_tokens_per_second=self._rate.per_second(time.monotonic()),
            draining=self._refusal is not None,
        )

    async def drain(self, grace: float) -> None:
        """Refuses new requests from now on, gives running ones `grace` seconds, then ends the rest."""
        self._refusal = "the engine is draining"
        try:
            await asyncio.wait_for(self._idle.wait(), grace)
        except TimeoutError:
            self._end_all("the engine was stopped before the request could finish")

    async def stop(self) -> None:
        """Ends every request and the thread."""
        self._refusal = "the engine is stopped"
        self._end_all("the engine was stopped")
        if self._thread.is_alive():
            self._commands.put(self._leave)
            await asyncio.to_thread(self._thread.join, STUCK_FOR if self.failed.is_set() else None)
        await asyncio.to_thread(self._engine.close)

    # What streams ask for their sequences.

    def end(self, sequence: Sequence, reason: FinishReason, num_output_tokens: int) -> None:
        self._commands.put(lambda: self._engine.finish(sequence, reason, num_output_tokens))

    def cancel(self, sequence: Sequence) -> None:
        self.forget(sequence)
        self._commands.put(lambda: self._engine.cancel(sequence))

    def forget(self, sequence: Sequence) -> None:
        """No more tokens are wanted for a request."""
        self._streams.pop(sequence, None)
        if not self._streams:
            self._idle.set()

    def release(self, sequence: Sequence) -> None:
        self._commands.put(lambda: self._engine.release(sequence))

    def now(self) -> int:
        """As timelines have it."""
        return self._engine.clock()

    def resume(self, sequence: Sequence) -> None:
        self._commands.put(lambda: self._engine.resume(sequence))

    def _num_waiting(self) -> int:
        return self._load.waiting + len(self._untaken)

    def _seconds_for_a_place(self) -> float:
        """About how long until the tokens that are being computed are done, at the present rate."""
        rate = self._rate.per_second(time.monotonic())
        return min(max(self._load.running / rate, 0.5), 30.0) if rate else 1.0

    def _end_all(self, why: str) -> None:
        for sequence, stream in list(self._streams.items()):
            stream.fail(EngineStopped(why))
            self.cancel(sequence)

    # The engine's thread, and how it reaches the loop.

    def _run(self) -> None:
        try:
            while self._running:
                self._do_commands()
                new_tokens = self._engine.step()
                load, step = self._engine.load(), self._engine.last_step
                self._loop.call_soon_threadsafe(self._deliver, new_tokens, load, step)
        except Exception as error:
            self._loop.call_soon_threadsafe(self._fail, error)
            raise

    def _lose(self, error: Exception) -> None:
        """From a third thread: this one's may be waiting for the process that is lost."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody left to be told
            self._loop.call_soon_threadsafe(self._fail, error)

    def _do_commands(self) -> None:
        """Does what was asked since the last step; waits for something if there is nothing to compute."""
        try:
            command = self._commands.get(block=not self._engine.has_work)
            while True:
                command()
                command = self._commands.get_nowait()
        except Empty:
            return

    def _leave(self) -> None:
        self._running = False

    def _deliver(self, new_tokens: list[NewToken], load: EngineLoad, step: StepReport | None) -> None:
        for _ in range(load.total_requests - self._load.total_requests):
            self._untaken.popleft()
        self._load = load
        if new_tokens:
            self._rate.add(time.monotonic(), len(new_tokens))
        for new in new_tokens:
            # Tokens of a request that was ended while the step ran go nowhere.
            first = new.sequence.request.first
            if (stream := self._streams.get(first)) and stream.receive(new):
                self.forget(first)
        if self.observer is not None and step is not None:
            self.observer.step(step)

    def _fail(self, error: Exception) -> None:
        if self.failed.is_set():
            return
        self._refusal = f"the engine has failed: {error}"
        for sequence, stream in list(self._streams.items()):
            stream.fail(EngineStopped(self._refusal))
            self.forget(sequence)
        self.failed.set()
