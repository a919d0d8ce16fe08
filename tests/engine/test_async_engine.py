"""AsyncEngine on a tiny model: streams, slow readers, cancels, drains and failures."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from octavo.engine.async_engine import AsyncEngine
from octavo.engine.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.engine.errors import EngineStopped, InvalidRequest, QueueFull
from octavo.engine.loading import load_engine
from octavo.engine.models.source import open_model
from octavo.engine.output import Delta, FinishReason
from octavo.engine.params import SamplingParams
from octavo.engine.rate import RateMeter
from octavo.engine.stream import Stream
from octavo.engine.tokenizer import Tokenizer

from .conftest import renewed

PROMPT = [11, 12, 13, 14, 15]


def greedy(max_tokens: int = 20, **fields: Any) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True, **fields)


@pytest.fixture(scope="module")
def loaded(tiny_model: Callable[..., Path]) -> tuple[Engine, Tokenizer]:
    files = open_model(str(tiny_model("llama")))
    config = EngineConfig(dtype="float32", kv_cache_memory="8Mi", stream_buffer=8, max_waiting=100)
    return load_engine(files, config), files.tokenizer()


@pytest.fixture
async def engine(loaded: tuple[Engine, Tokenizer]) -> AsyncIterator[AsyncEngine]:
    inner = renewed(loaded[0], 200)
    engine = AsyncEngine(inner, loaded[1], inner._config)
    await engine.start()
    yield engine
    await engine.stop()
    inner.check()


async def read(stream: Stream) -> list[Delta]:
    return [delta async for delta in stream]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_deltas_join_to_the_whole_output(engine: AsyncEngine) -> None:
    stream = engine.submit(PROMPT, greedy(30))
    deltas = await read(stream)
    assert [t for delta in deltas for t in delta.token_ids] == stream.output_token_ids
    assert "".join(delta.text for delta in deltas) == engine.tokenizer.decode(stream.output_token_ids)
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason is FinishReason.LENGTH
    assert deltas[-1].usage.num_output_tokens == 30


async def test_concurrent_streams_are_what_they_are_alone(engine: AsyncEngine) -> None:
    prompts = [[n, n + 1, n + 2] for n in range(3, 19)]
    alone = []
    for prompt in prompts:
        stream = engine.submit(prompt, greedy())
        await read(stream)
        alone.append(stream.output_token_ids)
    streams = [engine.submit(prompt, greedy()) for prompt in prompts]
    await asyncio.gather(*map(read, streams))
    assert [stream.output_token_ids for stream in streams] == alone


async def test_a_slow_reader_pauses_its_own_sequence_and_no_other(engine: AsyncEngine) -> None:
    slow = engine.submit(PROMPT, greedy(300))
    await read(engine.submit([21, 22], greedy(100)))
    await until(lambda: slow._sequence in engine._engine._scheduler.paused)
    assert slow._outputs.num_pending == 8
    assert len(await read(slow)) > 1
    assert slow.usage.num_output_tokens == 300


async def test_a_stop_string_ends_the_stream_and_the_sequence(engine: AsyncEngine) -> None:
    whole = engine.submit(PROMPT, greedy(60))
    await read(whole)
    stop = whole.text[5:8]
    stream = engine.submit(PROMPT, greedy(60, stop=(stop,)))
    await read(stream)
    assert stream.text == whole.text[: whole.text.index(stop)]
    assert stream.finish_reason is FinishReason.STOP
    await until(lambda: engine.load().held_blocks == 0)


async def test_a_cancel_ends_with_cancelled_and_frees_the_blocks(engine: AsyncEngine) -> None:
    stream = engine.submit(PROMPT, greedy(400))
    await anext(stream)
    stream.cancel()
    deltas = await read(stream)
    assert deltas[-1].finish_reason is FinishReason.CANCELLED
    await until(lambda: engine.load().held_blocks == 0)


async def test_random_cancels_and_slow_readers_leak_nothing(engine: AsyncEngine) -> None:
    """64 streams at once; a third is cancelled somewhere, a third reads slowly."""
    rng = random.Random(0)

    async def client(number: int) -> None:
        stream = engine.submit(
            [number % 7] * rng.randint(1, 60), greedy(rng.randint(1, 60)), hold=number % 5 == 0
        )
        async for _ in stream:
            if number % 3 == 0:
                await asyncio.sleep(rng.random() * 0.05)
            elif number % 3 == 1 and rng.random() < 0.2:
                stream.cancel()
        stream.release()

    async with asyncio.timeout(60):
        await asyncio.gather(*(client(number) for number in range(64)))
    await until(lambda: engine.load().held_blocks == 0)


async def test_a_full_queue_refuses_and_says_when_to_come_back(engine: AsyncEngine) -> None:
    streams = [engine.submit(PROMPT, greedy(50)) for _ in range(100)]
    with pytest.raises(QueueFull) as caught:
        engine.submit(PROMPT, greedy())
    assert caught.value.retry_after > 0
    for stream in streams:
        stream.cancel()
    await until(lambda: engine.load().waiting == 0)
    await read(engine.submit(PROMPT, greedy()))


async def test_a_bad_request_leaves_nothing_behind(engine: AsyncEngine) -> None:
    with pytest.raises(InvalidRequest):
        engine.submit([], greedy())
    assert engine.load().waiting == 0


async def test_a_held_stream_is_continued(engine: AsyncEngine) -> None:
    first = engine.submit(PROMPT, greedy(), hold=True)
    await read(first)
    assert first.held
    second = engine.submit([*PROMPT, *first.output_token_ids, 30], greedy(), continues=first)
    assert not first.held
    [*_, last] = await read(second)
    assert last.usage.num_cached_tokens == len(PROMPT) + 20 - 1
    await until(lambda: engine.load().held_blocks == 0)


async def test_a_hold_is_released_by_the_client_or_by_time(loaded: tuple[Engine, Tokenizer]) -> None:
    inner = renewed(loaded[0], 200, hold_timeout=0.3)
    engine = AsyncEngine(inner, loaded[1], inner._config)
    await engine.start()
    released = engine.submit(PROMPT, greedy(), hold=True)
    forgotten = engine.submit([9, 9], greedy(), hold=True)
    await asyncio.gather(read(released), read(forgotten))
    released.release()
    await until(lambda: engine.load().held_blocks == 2)
    await until(lambda: engine.load().held_blocks == 0)
    later = engine.submit([9, 9, *forgotten.output_token_ids, 30], greedy(), continues=forgotten)
    assert len(await read(later)) > 0, "a hold that timed out is computed again"
    await engine.stop()


async def test_a_drain_lets_running_requests_finish(engine: AsyncEngine) -> None:
    stream = engine.submit(PROMPT, greedy(50))
    drain = asyncio.create_task(engine.drain(grace=30))
    await asyncio.sleep(0)
    with pytest.raises(EngineStopped, match="draining"):
        engine.submit(PROMPT, greedy())
    assert engine.load().draining
    assert (await read(stream))[-1].finish_reason is FinishReason.LENGTH
    await drain


async def test_a_drain_ends_what_does_not_finish_in_time(engine: AsyncEngine) -> None:
    stream = engine.submit(PROMPT, greedy(400))
    await engine.drain(grace=0.01)
    with pytest.raises(EngineStopped):
        await read(stream)
    await until(lambda: engine.load().held_blocks == 0)


async def test_a_failing_step_ends_every_stream(
    loaded: tuple[Engine, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = renewed(loaded[0], 200)
    engine = AsyncEngine(inner, loaded[1], inner._config)
    await engine.start()
    thread_errors: list[Any] = []
    monkeypatch.setattr("threading.excepthook", thread_errors.append)

    def fail(_: Any) -> None:
        raise RuntimeError("the device is gone")

    with monkeypatch.context() as patch:
        patch.setattr(inner._runner, "run", fail)
        streams = [engine.submit(PROMPT, greedy()) for _ in range(3)]
        for stream in streams:
            with pytest.raises(EngineStopped, match="the device is gone"):
                await read(stream)
    assert engine.failed.is_set()
    with pytest.raises(EngineStopped):
        engine.submit(PROMPT, greedy())
    await engine.stop()
    assert len(thread_errors) == 1


async def test_load_counts_tokens_and_sequences(engine: AsyncEngine) -> None:
    stream = engine.submit(PROMPT, greedy(60))
    assert engine.load().waiting == 1
    await anext(stream)
    load = engine.load()
    assert (load.running, load.waiting) == (1, 0)
    assert load.held_blocks >= 1
    await read(stream)
    assert engine.load().total_output_tokens == 60
    assert 0 < engine.load().output_tokens_per_second <= 12.0


def test_the_rate_is_over_the_last_five_seconds() -> None:
    rate = RateMeter()
    rate.add(0.0, 50)
    rate.add(3.0, 10)
    assert rate.per_second(4.0) == 12.0
    assert rate.per_second(6.0) == 2.0
    assert rate.per_second(9.0) == 0.0
