"""The native runner's promise: a request's logits are the same, bit for bit, whatever else its steps compute.

Alone, in any batch, with its prompt in any pieces, from blocks that others computed, in copies of them,
computed anew after a preemption, and with any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo.engine.config import BLOCK_SIZE, EngineConfig
from octavo.engine.engine import Engine
from octavo.engine.loading import load_engine
from octavo.engine.models.source import open_model
from octavo.engine.params import SamplingParams
from octavo.engine.runners.native import NativeRunner
from tests.conftest import TinyModel

from ..conftest import renewed
from .steps import Piece, blocks_for, logits

pytestmark = pytest.mark.usefixtures("all_processors")

CHUNK = 128
"""Tokens that attention computes together; and what of a context is shared is shared in such chunks."""
LONGEST = 3 * CHUNK
NUM_BLOCKS = 96
FORMS: dict[str, dict[str, str]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "bfloat16", "quantization": "int8"},
    "int8 in float32": {"dtype": "float32", "quantization": "int8"},
    "int4": {"dtype": "bfloat16", "quantization": "int4"},
    "8-bit keys and values": {"dtype": "bfloat16", "kv_cache_dtype": "int8"},
}

Load = Callable[[str, int], NativeRunner]


@pytest.fixture(scope="module")
def tiny_runner(tiny_model: TinyModel) -> Load:
    """By form and number of threads: a model with a window in one of its two layers, and norms of heads."""
    windows = {"use_sliding_window": True, "sliding_window": 100, "max_window_layers": 1}
    path = tiny_model("qwen3", head_dim=64, num_attention_heads=6, num_key_value_heads=2, **windows)
    return cache(lambda form, threads: _load(path, threads, **FORMS[form]))


def _load(path: Path, threads: int, **settings: Any) -> NativeRunner:
    config = EngineConfig(model=str(path), threads=threads, **settings)
    runner = NativeRunner(open_model(str(path)), config, 512)
    runner.allocate(NUM_BLOCKS)
    return runner


@dataclass
class Text:
    """A request: its tokens, the blocks that it holds, and how far it is computed."""

    tokens: list[int]
    blocks: list[int] = field(default_factory=list)
    computed: int = 0


class Pool:
    """Blocks in random order, still with the keys and values of whom they were before."""

    def __init__(self, seed: int) -> None:
        self._free = np.random.default_rng(seed).permutation(NUM_BLOCKS).tolist()

    def take(self, count: int) -> list[int]:
        return [self._free.pop() for _ in range(count)]

    def give_back(self, blocks: list[int]) -> None:
        self._free[:0] = blocks


def texts_of(vocab_size: int, prefix: int, lengths: list[int]) -> list[list[int]]:
    """Token sequences that start alike."""
    rng = np.random.default_rng(len(lengths))
    start = rng.integers(3, vocab_size, prefix).tolist()
    return [start + rng.integers(3, vocab_size, length).tolist() for length in lengths]


def alone(runner: NativeRunner, tokens: list[int]) -> np.ndarray:
    """Logits after each token, of a text that has the machine to itself and is computed in one piece."""
    blocks = list(range(blocks_for(len(tokens))))
    return logits(runner, Piece(tokens, 0, len(tokens), blocks, range(len(tokens))))


PIECES = st.one_of(st.just(1), st.integers(1, 20), st.integers(1, LONGEST))


def check_any_schedule(data: st.DataObject, load: Callable[[int], NativeRunner], longest: int) -> None:
    """Runs texts in steps that hypothesis invents; every logit must be that of its text alone."""
    lengths = data.draw(st.lists(st.integers(1, longest // 2), min_size=2, max_size=4), "lengths")
    prefix = data.draw(st.sampled_from([0, 16, CHUNK // 2, CHUNK]), "prefix")
    plain = load(1)
    texts = [Text(tokens) for tokens in texts_of(plain._spec.vocab_size, min(prefix, longest // 2), lengths)]
    expected = [alone(plain, text.tokens) for text in texts]
    runner = load(data.draw(st.sampled_from([1, 2]), "threads"))
    pool = Pool(data.draw(st.integers(0, 9), "order of blocks"))
    for _ in range(25):
        unfinished = [i for i, text in enumerate(texts) if text.computed < len(text.tokens)]
        if not unfinished:
            break
        pieces: list[Piece] = []
        copies: list[tuple[int, int]] = []
        # Of whom blocks may be had: what is computed or copied in this step is there only after it.
        sources = [text for text in texts if text.computed >= BLOCK_SIZE]
        taking_part = data.draw(st.sets(st.sampled_from(unfinished), min_size=1), "who")
        for i in sorted(taking_part):
            text = texts[i]
            if text.computed and data.draw(st.integers(0, 9), "preempted") == 0:
                _preempt(text, texts, pool)
                sources = [source for source in sources if source is not text]
            if not text.blocks:
                _start(text, sources, pool, copies, data)
            left = len(text.tokens) - text.computed
            count = min(left, data.draw(PIECES, "tokens"))
            stop = text.computed + count
            wanted = sorted({stop - 1, data.draw(st.integers(text.computed, stop - 1), "wanted")})
            pieces.append(Piece(text.tokens, text.computed, stop, text.blocks, wanted))
        found = logits(runner, *pieces, copies=copies)
        at = 0
        for i, piece in zip(sorted(taking_part), pieces, strict=True):
            assert piece.wanted is not None
            for position in piece.wanted:
                np.testing.assert_array_equal(found[at], expected[i][position])
                at += 1
            texts[i].computed = piece.stop


def _preempt(text: Text, texts: list[Text], pool: Pool) -> None:
    of_others = {block for other in texts if other is not text for block in other.blocks}
    pool.give_back([block for block in text.blocks if block not in of_others])
    text.blocks, text.computed = [], 0


def _start(
    text: Text, sources: list[Text], pool: Pool, copies: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Gives a text its blocks: some may be another's, computed before, or copies of these."""
    text.blocks = pool.take(blocks_for(len(text.tokens)))
    if not sources or not data.draw(st.booleans(), "shares"):
        return
    other = sources[data.draw(st.integers(0, len(sources) - 1), "with")]
    alike = 0
    while alike < min(other.computed, len(text.tokens) - 1) and other.tokens[alike] == text.tokens[alike]:
        alike += 1
    for i in range(alike // BLOCK_SIZE):
        # The copy is of a block that nobody writes to, so that it may be made in any later step.
        if data.draw(st.integers(0, 3), "copied") == 0:
            copies.append((other.blocks[i], text.blocks[i]))
        else:
            pool.give_back([text.blocks[i]])
            text.blocks[i] = other.blocks[i]
    text.computed = alike // BLOCK_SIZE * BLOCK_SIZE


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_logits_do_not_depend_on_the_schedule(tiny_runner: Load, form: str, data: st.DataObject) -> None:
    check_any_schedule(data, lambda threads: tiny_runner(form, threads), LONGEST)


@pytest.fixture(scope="module")
def demo_runner(smollm2_path: Path) -> Callable[[int], NativeRunner]:
    """The demo model computed from the packed blocks of its GGUF file."""
    return cache(lambda threads: _load(smollm2_path, threads))


@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_logits_of_a_packed_checkpoint_do_not_depend_on_the_schedule(
    demo_runner: Callable[[int], NativeRunner], data: st.DataObject
) -> None:
    check_any_schedule(data, demo_runner, 2 * CHUNK)


@pytest.mark.parametrize("form", FORMS)
def test_sequences_that_share_chunks_compute_what_each_computes_alone(tiny_runner: Load, form: str) -> None:
    """Decodes whose contexts begin with the same blocks: these are read once for all of them."""
    runner = tiny_runner(form, 2)
    texts = texts_of(runner._spec.vocab_size, 2 * CHUNK, [1, 2, 17, 60, 100])
    expected = [alone(runner, tokens)[-1] for tokens in texts]
    pool = Pool(1)
    shared = pool.take(2 * CHUNK // BLOCK_SIZE)
    tables = [shared + pool.take(blocks_for(len(tokens)) - len(shared)) for tokens in texts]
    logits(runner, Piece(texts[0], 0, 2 * CHUNK, shared))
    for tokens, table in zip(texts, tables, strict=True):
        if len(tokens) - 1 > 2 * CHUNK:
            logits(runner, Piece(tokens, 2 * CHUNK, len(tokens) - 1, table))
    decodes = [
        Piece(tokens, len(tokens) - 1, len(tokens), table)
        for tokens, table in zip(texts, tables, strict=True)
    ]
    np.testing.assert_array_equal(logits(runner, *decodes), expected)


@pytest.fixture(scope="module", params=FORMS)
def loaded(request: pytest.FixtureRequest, tiny_model: TinyModel) -> Engine:
    path = str(tiny_model("llama", head_dim=64))
    config = EngineConfig(model=path, kv_cache_memory="8Mi", **FORMS[request.param])
    return load_engine(open_model(path), config)


PROMPTS = [[7 + n, *range(11, 31 + 7 * n)] for n in range(8)]
DRAWN = [
    SamplingParams(
        temperature=(0.0, 0.7, 1.5)[n % 3], top_p=0.9, seed=n, max_tokens=40, logprobs=3, ignore_eos=True
    )
    for n in range(8)
]


def test_requests_together_under_preemption_are_answered_as_each_alone(loaded: Engine) -> None:
    """Tokens and log-probabilities, drawn ones too."""
    roomy = renewed(loaded, 64, prefix_caching=False)
    separate = [answers(roomy, [prompt], [params])[0] for prompt, params in zip(PROMPTS, DRAWN, strict=True)]
    tight = renewed(loaded, 16, max_num_batched_tokens=64)
    assert answers(tight, PROMPTS, DRAWN) == separate
    assert tight.load().preemptions > 0


def answers(engine: Engine, prompts: list[list[int]], params: list[SamplingParams]) -> list[Any]:
    """Each request's tokens and what is told of their probabilities."""
    sequences = [engine.make_sequence(prompt, each) for prompt, each in zip(prompts, params, strict=True)]
    for sequence in sequences:
        engine.add(sequence)
    told: list[list[Any]] = [[] for _ in sequences]
    while engine.has_work:
        for new in engine.step():
            told[sequences.index(new.sequence)].append((new.token_id, new.logprobs))
        engine.check()
    return told
