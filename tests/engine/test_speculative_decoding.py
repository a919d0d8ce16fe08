"""Guessing through the whole engine: outputs are those of plain decoding, token for token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from octavo.engine.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.engine.loading import load_engine
from octavo.engine.models.source import open_model
from octavo.engine.params import SamplingParams

from .conftest import renewed, run, transformers_logits

PROMPTS = [[11, 12, 13, 14] * 6, [7, 8, 9, 7, 8, 9, 7, 8], list(range(50, 90)), [5] * 40]
GREEDY = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)


class Oracle:
    """Guesses what the sequence will be, wrong now and then: the hardest there is for what verifies."""

    block_bytes = 0

    def __init__(self, outputs: dict[int, list[int]], wrong: float, longest: int = 6) -> None:
        """outputs: by the first token of the prompt. wrong: the share of guesses that are not so."""
        self.outputs, self.wrong, self.longest = outputs, wrong, longest
        self.random = Random(1)
        self.num_proposed = self.num_accepted = 0

    def propose(self, sequences: Sequence[Any], num_others: int = 0) -> None:
        for sequence in sequences:
            done = sequence.num_output_tokens
            room = sequence.max_tokens - done - 1
            right = self.outputs[sequence.token_ids[0]][done : done + min(self.longest, room)]
            sequence.draft = [
                (token + 1) % 256 if self.random.random() < self.wrong else token for token in right
            ]

    def verified(self, sequence: Any, num_proposed: int, num_accepted: int) -> None:
        self.num_proposed += num_proposed
        self.num_accepted += num_accepted

    def timed(self, num_tokens: int, num_seqs: int, seconds: float) -> None: ...

    def forget(self, sequence: Any) -> None: ...


@pytest.fixture(scope="module")
def loaded(tiny_model: Callable[..., Path]) -> tuple[Engine, Any]:
    from transformers import AutoModelForCausalLM

    folder = tiny_model("llama")
    config = EngineConfig(model=str(folder), dtype="float32", kv_cache_memory="8Mi", threads=1)
    return load_engine(open_model(str(folder)), config), AutoModelForCausalLM.from_pretrained(folder).eval()


def guessing(engine: Engine, oracle: Any, num_blocks: int = 200, **settings: Any) -> Engine:
    plain = renewed(engine, num_blocks, **settings)
    return Engine(plain._runner, plain.model, plain._config, speculator=oracle)


CASES = {
    "greedy": GREEDY,
    "seeded": SamplingParams(seed=3, max_tokens=60, ignore_eos=True),
    "cuts": SamplingParams(seed=4, top_k=20, top_p=0.9, temperature=0.7, max_tokens=60, ignore_eos=True),
    "penalties": replace(GREEDY, repetition_penalty=1.3, frequency_penalty=0.5, presence_penalty=0.3),
    "min_tokens": replace(GREEDY, min_tokens=30, stop_token_ids=tuple(range(0, 384, 3))),
    "stop tokens": replace(GREEDY, stop_token_ids=(17, 192, 300, 5)),
    "biases": replace(GREEDY, logit_bias={7: 2.0, 13: -3.0}),
}


@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("params", CASES.values(), ids=CASES.keys())
def test_outputs_are_those_of_plain_decoding(
    loaded: tuple[Engine, Any], params: SamplingParams, wrong: float
) -> None:
    plain = run(renewed(loaded[0], 200), PROMPTS, params)
    oracle = Oracle({p[0]: output for p, output in zip(PROMPTS, plain, strict=True)}, wrong)
    assert run(guessing(loaded[0], oracle), PROMPTS, params) == plain
    if wrong == 0.0:
        assert oracle.num_accepted == oracle.num_proposed > 0
    if wrong == 1.0:
        assert oracle.num_accepted == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"num_blocks": 12},
        {"num_blocks": 12, "prefix_caching": False},
        {"max_num_seqs": 4, "max_num_batched_tokens": 8},
    ],
)
def test_the_same_where_blocks_and_budget_are_scarce(
    loaded: tuple[Engine, Any], settings: dict[str, Any]
) -> None:
    plain = run(renewed(loaded[0], 200), PROMPTS, GREEDY)
    oracle = Oracle({p[0]: output for p, output in zip(PROMPTS, plain, strict=True)}, 0.2)
    assert run(guessing(loaded[0], oracle, **settings), PROMPTS, GREEDY) == plain


def test_right_guesses_save_steps(loaded: tuple[Engine, Any]) -> None:
    [plain] = run(renewed(loaded[0], 200), PROMPTS[:1], GREEDY)
    engine = guessing(loaded[0], Oracle({PROMPTS[0][0]: plain}, 0.0, longest=5))
    engine.add(engine.make_sequence(PROMPTS[0], GREEDY))
    steps = guesses = accepted = 0
    while engine.has_work:
        engine.step()
        assert engine.last_step is not None
        steps += 1
        guesses += engine.last_step.num_guessed_tokens
        accepted += engine.last_step.num_accepted_tokens
    assert steps == 1 + 10
    assert guesses == accepted == 49


def test_draws_follow_the_models_distribution(loaded: tuple[Engine, Any]) -> None:
    """The token after one that was guessed, right or wrong, over many seeds: χ² against Transformers."""
    prompt, count = PROMPTS[1], 1500
    logits = transformers_logits(loaded[1], prompt)[-1].astype(np.float64) / 0.5
    likeliest = int(np.argmax(logits))
    params = [
        SamplingParams(seed=seed, temperature=0.5, max_tokens=3, ignore_eos=True) for seed in range(count)
    ]
    oracle = Oracle({prompt[0]: [likeliest] * 3}, 0.0)
    engine = guessing(loaded[0], oracle, 600, max_num_seqs=256)
    sequences = [engine.make_sequence(prompt, each) for each in params]
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        engine.step()
    outputs = [sequence.token_ids[len(prompt) :].tolist() for sequence in sequences]
    assert 0 < oracle.num_accepted < oracle.num_proposed
    for place in (0, 1):
        before = [] if place == 0 else [likeliest]
        drawn = [output[place] for output in outputs if output[:place] == before]
        logits = transformers_logits(loaded[1], prompt + before)[-1].astype(np.float64) / 0.5
        expected = np.exp(logits - logits.max())
        expected *= len(drawn) / expected.sum()
        counts = np.bincount(drawn, minlength=len(expected))
        often = expected >= 5
        observed = np.array([*counts[often], counts[~often].sum()])
        wanted = np.array([*expected[often], expected[~often].sum()])
        degrees = len(wanted) - 1
        # χ² is about normal for many degrees: mean d, variance 2d. Four deviations are one in 30,000.
        assert ((observed - wanted) ** 2 / wanted).sum() < degrees + 4 * np.sqrt(2 * degrees)


@pytest.mark.parametrize("speculation", ["ngram", "draft"])
@pytest.mark.parametrize("params", [CASES["greedy"], CASES["seeded"]], ids=["greedy", "seeded"])
def test_the_engines_own_guessers_change_nothing(
    tiny_model: Callable[..., Path], speculation: Any, params: SamplingParams
) -> None:
    folder = str(tiny_model("llama"))
    config = EngineConfig(model=folder, dtype="float32", kv_cache_memory="8Mi", threads=1)
    plain = run(load_engine(open_model(folder), config), PROMPTS, params)
    draft = folder if speculation == "draft" else None
    speculating = replace(config, speculation=speculation, draft_model=draft)
    assert run(load_engine(open_model(folder), speculating), PROMPTS, params) == plain
