"""Penalties through the whole engine, against Transformers and against their definition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo.engine.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.engine.loading import load_engine
from octavo.engine.models.source import open_model
from octavo.engine.params import SamplingParams

from .conftest import renewed, run, transformers_logits

PROMPT = [11, 12, 13, 11, 12, 13, 11, 12]


@pytest.fixture(scope="module")
def loaded(tiny_model: Callable[..., Path]) -> tuple[Engine, Any]:
    from transformers import AutoModelForCausalLM

    folder = tiny_model("llama")
    config = EngineConfig(model=str(folder), dtype="float32", kv_cache_memory="8Mi", threads=1)
    return load_engine(open_model(str(folder)), config), AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("penalty", [0.7, 1.3, 2.5])
def test_repetition_is_that_of_transformers_prompt_included(
    loaded: tuple[Engine, Any], penalty: float
) -> None:
    import torch

    engine, oracle = renewed(loaded[0], 64), loaded[1]
    ids = torch.tensor([PROMPT])
    expected = oracle.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=80,
        repetition_penalty=penalty,
        eos_token_id=None,
        pad_token_id=0,
    )[0, len(PROMPT) :].tolist()
    params = SamplingParams(temperature=0, max_tokens=80, repetition_penalty=penalty, ignore_eos=True)
    assert run(engine, [PROMPT], params) == [expected]


def test_frequency_and_presence_count_the_output(loaded: tuple[Engine, Any]) -> None:
    engine, oracle = renewed(loaded[0], 64), loaded[1]
    params = SamplingParams(
        temperature=0, max_tokens=30, frequency_penalty=0.8, presence_penalty=1.5, ignore_eos=True
    )
    output: list[int] = []
    for _ in range(30):
        logits = transformers_logits(oracle, PROMPT + output)[-1].copy()
        for token, count in Counter(output).items():
            logits[token] -= 0.8 * count + 1.5
        output.append(int(np.argmax(logits)))
    assert run(engine, [PROMPT], params) == [output]


def test_a_penalised_sequence_does_not_touch_its_neighbours(loaded: tuple[Engine, Any]) -> None:
    engine = renewed(loaded[0], 64)
    plain = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    penalised = SamplingParams(temperature=0, max_tokens=20, repetition_penalty=1.5, ignore_eos=True)
    alone = [run(engine, [PROMPT], params)[0] for params in (plain, penalised, plain)]
    assert alone[0] != alone[1]
    assert run(engine, [PROMPT] * 3, [plain, penalised, plain]) == alone


def test_penalties_survive_a_preemption(loaded: tuple[Engine, Any]) -> None:
    params = SamplingParams(temperature=0, max_tokens=60, repetition_penalty=1.5, ignore_eos=True)
    prompts = [[n, *PROMPT] for n in range(3, 7)]
    roomy, tight = run(renewed(loaded[0], 64), prompts, params), renewed(loaded[0], 8)
    assert run(tight, prompts, params) == roomy
    assert tight.load().preemptions > 0
