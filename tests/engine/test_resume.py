"""A request that one engine began and another finishes: nobody can tell, wherever the cut was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from octavo.engine.async_engine import AsyncEngine
from octavo.engine.config import EngineConfig
from octavo.engine.detokenizer import Detokenizer
from octavo.engine.engine import Engine
from octavo.engine.errors import InvalidRequest
from octavo.engine.info import EngineLoad
from octavo.engine.loading import load_engine
from octavo.engine.models.source import open_model
from octavo.engine.output import FinishReason, Usage
from octavo.engine.params import SamplingParams
from octavo.engine.resumption import Resumption
from octavo.engine.sequence import Status
from octavo.engine.stream import Stream
from octavo.engine.tokenizer import Tokenizer

from .conftest import renewed
from .test_async_engine import read, until

PROMPT = [*range(11, 29)]
GREEDY = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
SEEDED = SamplingParams(temperature=1.5, seed=11, max_tokens=30)

Loaded = tuple[Engine, Tokenizer]


@pytest.fixture(scope="module")
def loaded(tiny_model: Callable[..., Path]) -> Loaded:
    files = open_model(str(tiny_model("llama")))
    config = EngineConfig(dtype="float32", kv_cache_memory="8Mi", stream_buffer=4, threads=1)
    engine = load_engine(files, config)
    engine.model = replace(engine.model, eos_token_ids=tuple(range(60, 90)))  # a tiny model seldom draws one
    return engine, files.tokenizer()


@asynccontextmanager
async def serving(loaded: Loaded, **settings: Any) -> AsyncIterator[AsyncEngine]:
    """A fresh engine, with empty blocks and caches."""
    inner = renewed(loaded[0], 128, **settings)
    engine = AsyncEngine(inner, loaded[1], inner._config)
    await engine.start()
    yield engine
    await engine.stop()
    inner.check()
    assert inner.load().held_blocks == 0


async def whole(engine: AsyncEngine, params: SamplingParams) -> Stream:
    stream = engine.submit(PROMPT, params)
    await read(stream)
    return stream


CASES = {
    "greedy": GREEDY,
    "seeded": replace(SEEDED, ignore_eos=True),
    "to the end of sequence": replace(SEEDED, seed=3),
    "penalties": replace(
        SEEDED, ignore_eos=True, repetition_penalty=1.3, frequency_penalty=0.7, presence_penalty=-0.4
    ),
    "cuts": replace(SEEDED, ignore_eos=True, top_k=40, top_p=0.9, min_p=0.01, logprobs=3),
    "min_tokens": replace(SEEDED, min_tokens=12, stop_token_ids=tuple(range(3, 384))),
    "stop strings": replace(SEEDED, ignore_eos=True, stop=("\ufffd\ufffd", "he", "x")),
    "stop tokens": replace(SEEDED, ignore_eos=True, min_tokens=5, stop_token_ids=tuple(range(100, 140))),
}


def describe(stream: Stream) -> tuple[list[int], str, FinishReason | None, Usage]:
    return stream.output_token_ids, stream.text, stream.finish_reason, stream.usage


@pytest.mark.parametrize("case", CASES)
async def test_an_output_cut_anywhere_goes_on_as_if_it_had_not_been(loaded: Loaded, case: str) -> None:
    params = CASES[case]
    async with serving(loaded, prefix_caching=False) as engine:
        undisturbed = await whole(engine, params)
    tokens = undisturbed.output_token_ids
    async with serving(loaded, prefix_caching=False) as engine:
        cuts = range(len(tokens))
        streams = [engine.submit(PROMPT, params, resume=Resumption(tokens[:cut])) for cut in cuts]
        for cut, resumed in zip(cuts, streams, strict=True):
            deltas = await read(resumed)
            assert told(loaded, params, tokens[:cut]) + "".join(d.text for d in deltas) == undisturbed.text
            assert tokens[:cut] + [t for delta in deltas for t in delta.token_ids] == tokens
            assert describe(resumed) == describe(undisturbed)


def told(loaded: Loaded, params: SamplingParams, token_ids: list[int]) -> str:
    """The text that deltas with these tokens have, when more is to come."""
    return Detokenizer(loaded[1], params.stop).push(token_ids)


async def test_what_is_resumed_is_the_output_and_no_part_of_the_prompt(loaded: Loaded) -> None:
    async with serving(loaded) as engine:
        tokens = (await whole(engine, GREEDY)).output_token_ids
        stream = engine.submit(PROMPT, GREEDY, resume=Resumption(tokens[:7]))
        assert stream.prompt_token_ids == PROMPT
        assert stream.output_token_ids == tokens[:7]
        assert stream.text == told(loaded, GREEDY, tokens[:7])
        await read(stream)


async def test_at_most_the_prompt_counts_as_cached(loaded: Loaded) -> None:
    """Also where the engine knows all of the output, having made it itself."""
    async with serving(loaded) as engine:
        tokens = (await whole(engine, replace(GREEDY, max_tokens=60))).output_token_ids
        params = replace(GREEDY, max_tokens=62)
        [*_, last] = await read(engine.submit(PROMPT, params, resume=Resumption(tokens)))
        assert last.usage == Usage(num_prompt_tokens=18, num_output_tokens=62, num_cached_tokens=18)
        assert engine.load().total_cached_prompt_tokens == 18


async def test_a_reader_has_read_what_was_resumed(loaded: Loaded) -> None:
    """The sequence pauses at four unread tokens, so not for those that came with it."""
    async with serving(loaded) as engine:
        tokens = (await whole(engine, GREEDY)).output_token_ids
        stream = engine.submit(PROMPT, GREEDY, resume=Resumption(tokens[:10]))
        await until(lambda: stream._sequence.status is Status.PAUSED)
        assert stream._outputs.num_pending == 4
        await read(stream)
        assert stream.output_token_ids == tokens


async def test_a_resumed_request_can_be_preempted_and_resumed_again(loaded: Loaded) -> None:
    params = replace(GREEDY, max_tokens=200)
    async with serving(loaded) as engine:
        undisturbed = await whole(engine, params)
    tokens = undisturbed.output_token_ids
    inner = renewed(loaded[0], 16, prefix_caching=False)
    sequences = [inner.make_sequence(PROMPT, params, resume=Resumption(tokens[:cut])) for cut in (30, 90)]
    for sequence in sequences:
        inner.add(sequence)
    while inner.has_work:
        inner.step()
        inner.check()
    assert inner.load().preemptions > 0
    assert all(sequence.token_ids[len(PROMPT) :].tolist() == tokens for sequence in sequences)


async def test_an_output_that_has_ended_is_taken_over_without_a_step(loaded: Loaded) -> None:
    async with serving(loaded) as engine:
        ended = await whole(engine, GREEDY)
    async with serving(loaded) as engine:
        resume = Resumption(ended.output_token_ids, FinishReason.LENGTH)
        stream = engine.submit(PROMPT, GREEDY, hold=True, resume=resume)
        assert stream.held
        assert describe(stream) == describe(ended)
        [delta] = await read(stream)
        assert (delta.text, delta.token_ids, delta.finish_reason) == ("", (), FinishReason.LENGTH)
        assert delta.usage == ended.usage
        assert engine.load() == EngineLoad(**{**asdict(engine.load()), "total_requests": 0})
        assert engine._engine.last_step is None


async def test_a_continuation_of_what_was_taken_over_answers_as_where_it_was_made(loaded: Loaded) -> None:
    async with serving(loaded) as engine:
        first = engine.submit(PROMPT, GREEDY, hold=True)
        await read(first)
        turn = [*PROMPT, *first.output_token_ids, 30, 31]
        second = engine.submit(turn, GREEDY, continues=first)
        await read(second)
    async with serving(loaded) as engine:
        resume = Resumption(first.output_token_ids, FinishReason.LENGTH)
        taken = engine.submit(PROMPT, GREEDY, hold=True, resume=resume)
        again = engine.submit(turn, GREEDY, continues=taken)
        assert not taken.held
        await read(again)
        assert again.output_token_ids == second.output_token_ids
        assert again.usage.num_cached_tokens == 0
        later = engine.submit(PROMPT, GREEDY, hold=True, resume=resume)
        [*_, last] = await read(engine.submit(turn, GREEDY, continues=later))
        assert last.usage.num_cached_tokens == 32, "the prefix cache has two full blocks of it by now"


async def test_a_turn_taken_over_ends_its_parents_hold_unless_that_is_kept(loaded: Loaded) -> None:
    async with serving(loaded) as engine:
        for keep in (True, False):
            parent = engine.submit(PROMPT, GREEDY, hold=True)
            await read(parent)
            turn = [*PROMPT, *parent.output_token_ids, 30]
            resume = Resumption([5, 6], FinishReason.LENGTH)
            child = engine.submit(turn, GREEDY, hold=True, continues=parent, keep_parent=keep, resume=resume)
            assert (child.held, parent.held) == (True, keep)
            parent.release()
            child.release()
            await until(lambda: engine.load().held_blocks == 0)


async def test_an_end_that_nobody_noticed_is_an_end(loaded: Loaded) -> None:
    """A pod died between the last token and its finish reason: nothing may follow."""
    end = loaded[0].model.eos_token_ids[0]
    async with serving(loaded) as engine:
        stream = engine.submit(PROMPT, SamplingParams(), resume=Resumption([5, end]))
        [delta] = await read(stream)
        assert (delta.token_ids, delta.finish_reason) == ((), FinishReason.EOS)
        assert not stream.held
        ignored = engine.submit(PROMPT, GREEDY, resume=Resumption([5, end]))
        [*_, last] = await read(ignored)
        assert last.finish_reason is FinishReason.LENGTH
        early = replace(GREEDY, ignore_eos=False, min_tokens=20)
        await read(stream := engine.submit(PROMPT, early, resume=Resumption([5, end])))
        assert len(stream.output_token_ids) == 20, "before min_tokens it was no end"


async def test_a_taken_over_turn_can_be_cancelled_and_released(loaded: Loaded) -> None:
    async with serving(loaded) as engine:
        stream = engine.submit(PROMPT, GREEDY, hold=True, resume=Resumption([5], FinishReason.LENGTH))
        stream.cancel()
        stream.release()
        assert not stream.held
        [delta] = await read(stream)
        assert delta.finish_reason is FinishReason.LENGTH


REFUSED: dict[str, tuple[Resumption, dict[str, Any], str]] = {
    "unknown id": (Resumption([5, 384]), {}, r"resume.token_ids\[1\]: .*in \[0, 384\) \(got 384\)"),
    "negative id": (Resumption([-1]), {}, r"resume.token_ids\[0\]: .*in \[0, 384\)"),
    "all of max_tokens": (
        Resumption([5] * 20),
        {},
        "resume.token_ids: must be fewer than 20, max_tokens, unless finish_reason is set .*20 tokens",
    ),
    "all of the context": (
        Resumption([5] * 494),
        {"max_tokens": None},
        "must be fewer than 494, those that the context takes, unless finish_reason is set",
    ),
    "ended beyond max_tokens": (
        Resumption([5] * 21, FinishReason.LENGTH),
        {"hold": True},
        "must be at most 20, max_tokens",
    ),
    "ended beyond the context": (
        Resumption([5] * 495, FinishReason.LENGTH),
        {"hold": True, "max_tokens": None},
        "must be at most 494, those that the context takes",
    ),
    "ended, not held": (Resumption([5], FinishReason.LENGTH), {}, "resume.finish_reason: .*without hold"),
    "cancelled": (Resumption([5], FinishReason.CANCELLED), {"hold": True}, "must not be CANCELLED"),
    "ended, empty": (Resumption([], FinishReason.LENGTH), {"hold": True}, "resume.token_ids: .* empty"),
    "ended otherwise": (Resumption([5], FinishReason.EOS), {"hold": True}, "which is LENGTH .got 'EOS'"),
    "on past an end": (
        Resumption([5, 6, 7]),
        {"stop_token_ids": (6,)},
        r"resume.token_ids\[1\]: must be the last: the output ends with token 6",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_no_engine_can_have_put_out_is_refused(loaded: Loaded, case: str) -> None:
    resume, fields, rule = REFUSED[case]
    hold = fields.get("hold", False)
    params = replace(GREEDY, **{name: value for name, value in fields.items() if name != "hold"})
    async with serving(loaded) as engine:
        with pytest.raises(InvalidRequest, match=rule):
            engine.submit(PROMPT, params, hold=hold, resume=resume)
        assert engine.load().waiting == 0
        assert not engine._streams
