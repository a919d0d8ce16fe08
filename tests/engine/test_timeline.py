"""What an engine tells of its requests and steps: moments, counts, and who is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from octavo.engine.async_engine import AsyncEngine
from octavo.engine.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.engine.errors import EngineStopped
from octavo.engine.loading import load_engine
from octavo.engine.models.source import open_model
from octavo.engine.observer import RequestReport, StepReport
from octavo.engine.output import FinishReason
from octavo.engine.params import SamplingParams
from octavo.engine.resumption import Resumption
from octavo.engine.tokenizer import Tokenizer

from .conftest import renewed
from .test_async_engine import greedy, read, until

PROMPT = [*range(11, 31)]


class Notes:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[StepReport] = []
        self.requests: list[RequestReport] = []

    def step(self, step: StepReport) -> None:
        self.steps.append(step)

    def finished(self, request: RequestReport) -> None:
        self.requests.append(request)

    def total(self, count: str) -> int:
        return sum(getattr(step, count) for step in self.steps)


@pytest.fixture(scope="module")
def loaded(tiny_model: Callable[..., Path]) -> tuple[Engine, Tokenizer]:
    files = open_model(str(tiny_model("llama")))
    config = EngineConfig(dtype="float32", kv_cache_memory="8Mi", max_num_batched_tokens=64, threads=1)
    return load_engine(files, config), files.tokenizer()


@pytest.fixture
async def engine(loaded: tuple[Engine, Tokenizer]) -> AsyncIterator[AsyncEngine]:
    inner = renewed(loaded[0], 200)
    engine = AsyncEngine(inner, loaded[1], inner._config)
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
def notes(engine: AsyncEngine) -> Notes:
    engine.observer = found = Notes()
    return found


async def test_the_moments_of_a_request_come_in_their_order(engine: AsyncEngine) -> None:
    stream = engine.submit(PROMPT, greedy())
    await read(stream)
    times = stream.timeline
    moments = [times.arrived, times.scheduled, times.first_token, times.last_token, times.finished]
    assert all(earlier <= later for earlier, later in pairwise(moments))
    assert times.finished == times.last_token
    assert times.preemptions == ()


async def test_a_step_counts_its_tokens(engine: AsyncEngine, notes: Notes) -> None:
    await read(engine.submit(PROMPT * 5, greedy(10)))
    await until(lambda: notes.total("num_drawn_tokens") == 10)
    assert [step.num_prefill_tokens for step in notes.steps] == [64, 36] + [0] * 9
    assert [step.num_decode_tokens for step in notes.steps] == [0, 0] + [1] * 9
    assert [len(step.first_token_waits) for step in notes.steps] == [0, 1] + [0] * 9
    assert [len(step.token_gaps) for step in notes.steps] == [0, 0] + [1] * 9
    assert [gap for step in notes.steps for gap in step.token_gaps] == [
        later.ended - earlier.ended for earlier, later in pairwise(notes.steps[1:])
    ]


async def test_lookups_in_the_prefix_cache_are_counted_once_a_request(
    engine: AsyncEngine, notes: Notes
) -> None:
    for _ in range(2):
        await read(engine.submit(PROMPT, greedy(3)))
    await until(lambda: notes.total("num_drawn_tokens") == 6)
    assert notes.total("num_queried_tokens") == 40
    assert notes.total("num_hit_tokens") == 16


async def test_a_request_is_reported_with_its_end(engine: AsyncEngine, notes: Notes) -> None:
    stream = engine.submit(PROMPT, greedy(10), resume=Resumption([5, 6, 7]))
    await read(stream)
    [report] = notes.requests
    assert report.finish_reason is FinishReason.LENGTH
    assert report.timeline is stream.timeline
    assert report.usage == stream.usage
    assert (report.usage.num_output_tokens, report.num_resumed_tokens, report.max_tokens) == (10, 3, 10)
    assert report.error is None


async def test_a_stop_string_is_an_end_when_it_is_found(engine: AsyncEngine, notes: Notes) -> None:
    whole = engine.submit(PROMPT, greedy(30))
    await read(whole)
    stream = engine.submit(PROMPT, greedy(30, stop=(whole.text[3:5],)))
    await read(stream)
    assert [report.finish_reason for report in notes.requests] == [FinishReason.LENGTH, FinishReason.STOP]
    assert notes.requests[1].usage == stream.usage


async def test_a_cancelled_request_is_reported_once_and_has_an_end(engine: AsyncEngine, notes: Notes) -> None:
    stream = engine.submit(PROMPT, greedy(300))
    await anext(stream)
    stream.cancel()
    stream.cancel()
    await read(stream)
    [report] = notes.requests
    assert report.finish_reason is FinishReason.CANCELLED
    assert stream.timeline.finished is not None


async def test_a_request_that_fails_is_reported_with_why(engine: AsyncEngine, notes: Notes) -> None:
    stream = engine.submit(PROMPT, greedy(400))
    await anext(stream)
    await engine.drain(grace=0)
    with pytest.raises(EngineStopped):
        await read(stream)
    [report] = notes.requests
    assert report.finish_reason is None
    assert isinstance(report.error, EngineStopped)
    assert stream.timeline.finished is not None


async def test_a_request_taken_over_with_its_end_is_not_reported(engine: AsyncEngine, notes: Notes) -> None:
    resume = Resumption([5], FinishReason.LENGTH)
    stream = engine.submit(PROMPT, greedy(), hold=True, resume=resume)
    await read(stream)
    assert stream.timeline.finished == stream.timeline.arrived
    assert not notes.requests


def test_each_preemption_is_a_moment(loaded: tuple[Engine, Tokenizer]) -> None:
    ticks = iter(range(1, 1_000_000))
    inner = renewed(loaded[0], 12)
    inner.clock = lambda: next(ticks)
    params = SamplingParams(temperature=0, ignore_eos=True, max_tokens=100)
    sequences = [inner.make_sequence(PROMPT, params) for _ in range(3)]
    for sequence in sequences:
        inner.add(sequence)
    while inner.has_work:
        inner.step()
    moments = [moment for sequence in sequences for moment in sequence.timeline.preemptions]
    assert len(moments) == inner.load().preemptions > 0
    assert all(s.timeline.scheduled < s.timeline.finished for s in sequences)


async def test_requests_and_their_prompts_are_counted_from_the_moment_they_come(engine: AsyncEngine) -> None:
    streams = [engine.submit(PROMPT, greedy(20 + n)) for n in range(4)]
    load = engine.load()
    assert (load.total_requests, load.total_prompt_tokens) == (4, 80)
    assert (load.waiting, load.waiting_tokens) == (4, 80), "also before the engine's thread has seen them"
    for stream in streams[1:]:
        await read(stream)
    streams[0].cancel()
    await until(lambda: engine.load().total_finished_requests == 4)
    load = engine.load()
    assert (load.total_requests, load.total_prompt_tokens, load.waiting_tokens) == (4, 80, 0)
    assert load.max_num_seqs == 64


async def test_what_has_come_and_not_ended_runs_or_waits(engine: AsyncEngine) -> None:
    streams: list[Any] = [engine.submit(PROMPT, greedy(5 + n % 50)) for n in range(80)]
    for stream in streams:
        load = engine.load()
        assert load.total_requests - load.total_finished_requests == load.running + load.waiting
        await read(stream)


async def test_cached_prompt_tokens_are_counted(engine: AsyncEngine) -> None:
    for _ in range(3):
        await read(engine.submit(PROMPT, greedy(2)))
    assert engine.load().total_cached_prompt_tokens == 32
