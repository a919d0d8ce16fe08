"""Greedy output of the demo model in float32 is Transformers' own, token for token, however it is
computed."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from octavo.engine.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.engine.loading import load_engine
from octavo.engine.memory import available_cpus
from octavo.engine.models.source import open_model
from octavo.engine.params import SamplingParams
from tests.conftest import uncounted

from .conftest import gguf_read_once, renewed, run, transformers_greedy

NUM_TOKENS = 24
GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS)


@pytest.fixture(scope="module", autouse=True)
def threads() -> None:
    """Tests of tiny models leave torch with one."""
    import torch

    torch.set_num_threads(available_cpus())


@pytest.fixture(scope="module")
@uncounted()
def oracle(smollm2_path: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    with gguf_read_once():
        return AutoModelForCausalLM.from_pretrained(
            smollm2_path.parent,
            gguf_file=smollm2_path.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        ).eval()


@pytest.fixture(scope="module")
def batched(smollm2: Engine, real_prompts: list[list[int]]) -> list[list[int]]:
    """What the engine answers to all prompts together."""
    engine = renewed(smollm2, 600, prefix_caching=False, max_num_batched_tokens=2048)
    return run(engine, real_prompts, GREEDY)


@pytest.fixture(scope="module")
def expected(oracle: Any, real_prompts: list[list[int]], batched: list[list[int]]) -> list[list[int]]:
    return transformers_greedy(oracle, real_prompts, NUM_TOKENS, guesses=batched)


def test_the_prompts_are_what_they_should_be(real_prompts: list[list[int]]) -> None:
    lengths = sorted(map(len, real_prompts))
    assert len(lengths) == 20
    assert lengths[0] <= 5
    assert 1450 <= lengths[-1] <= 1500


def test_each_prompt_alone(
    with_settings: Callable[..., Engine], real_prompts: list[list[int]], expected: list[list[int]]
) -> None:
    engine = with_settings(prefix_caching=False, max_num_batched_tokens=2048)
    assert run(engine, real_prompts, GREEDY, together=False) == expected


def test_all_prompts_batched_together(batched: list[list[int]], expected: list[list[int]]) -> None:
    assert batched == expected


def test_all_prompts_batched_together_by_pytorch(
    smollm2_path: Path, real_prompts: list[list[int]], expected: list[list[int]]
) -> None:
    config = EngineConfig(model=str(smollm2_path), runner="torch", dtype="float32", kv_cache_memory="256Mi")
    assert run(load_engine(open_model(config.model), config), real_prompts, GREEDY) == expected


def test_with_prompts_cut_into_chunks(
    with_settings: Callable[..., Engine], real_prompts: list[list[int]], expected: list[list[int]]
) -> None:
    engine = with_settings(prefix_caching=False, max_num_batched_tokens=100, max_num_seqs=8)
    assert run(engine, real_prompts, GREEDY) == expected


def test_from_cached_prefixes(
    with_settings: Callable[..., Engine], real_prompts: list[list[int]], expected: list[list[int]]
) -> None:
    engine = with_settings()
    run(engine, real_prompts, GREEDY)
    sequences = [engine.make_sequence(prompt, GREEDY) for prompt in real_prompts]
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        engine.step()
    assert [s.num_cached_tokens for s in sequences] == [(len(p) - 1) // 16 * 16 for p in real_prompts]
    assert [s.token_ids[s.num_prompt_tokens :].tolist() for s in sequences] == expected


def test_with_a_pool_too_small_for_all(
    with_settings: Callable[..., Engine], real_prompts: list[list[int]], expected: list[list[int]]
) -> None:
    """Room for the longest prompt and hardly more: others wait, and young ones lose their blocks to old
    ones."""
    engine = with_settings(num_blocks=95, max_num_batched_tokens=2048)
    order = random.Random(1).sample(range(len(real_prompts)), len(real_prompts))
    assert run(engine, [real_prompts[i] for i in order], GREEDY) == [expected[i] for i in order]
    assert engine.load().preemptions > 0


def test_under_repeated_preemption(
    oracle: Any, with_settings: Callable[..., Engine], real_prompts: list[list[int]]
) -> None:
    """The pool holds a sixth of what all sequences grow to."""
    prompts = sorted(real_prompts, key=len)[:13]
    longer = SamplingParams(temperature=0, max_tokens=36)
    engine = with_settings(num_blocks=11)
    outputs = run(engine, prompts, longer)
    assert outputs == transformers_greedy(oracle, prompts, 36, guesses=outputs)
    assert engine.load().preemptions > 1
