"""A request that one engine began and another finishes: nobody can tell, wherever the cut was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from octavo.engine.async_engine import AsyncEngine
from octavo.engine.config import EngineConfig
from octavo.engine.detokenizer import Detokenizer
from octavo.engine.engine import Engine, load_engine
from octavo.engine.models.source import open_model
from octavo.engine.output import FinishReason, Usage
from octavo.engine.params import SamplingParams
from octavo.engine.resumption import Resumption
from octavo.engine.stream import Stream
from octavo.engine.tokenizer import Tokenizer

from .conftest import renewed
from .test_async_engine import read

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
