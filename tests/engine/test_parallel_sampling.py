"""Several outputs of one prompt: computed once, on shared blocks, each as if it were alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from octavo.engine.async_engine import AsyncEngine
from octavo.engine.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.engine.errors import InvalidRequest
from octavo.engine.intake import seed_of
from octavo.engine.llm import LLM
from octavo.engine.loading import load_engine
from octavo.engine.models.source import open_model
from octavo.engine.output import FinishReason
from octavo.engine.params import SamplingParams
from octavo.engine.resumption import Resumption

from .conftest import renewed, run, step

PROMPT = [11, 12, 13, 11, 12, 40, 41, 42, 43] * 3
SEEDED = SamplingParams(seed=7, max_tokens=40, ignore_eos=True)


@pytest.fixture(scope="module")
def loaded(tiny_model: Callable[..., Path]) -> Engine:
    folder = str(tiny_model("llama"))
    config = EngineConfig(model=folder, dtype="float32", kv_cache_memory="8Mi", threads=1)
    return load_engine(open_model(folder), config)


def outputs(engine: Engine, n: int, resume: Resumption | None = None) -> list[list[int]]:
    params = SamplingParams(n=n, seed=7, max_tokens=40, ignore_eos=True)
    first = engine.make_sequence(PROMPT, params, resume=resume)
    engine.add(first)
    while engine.has_work:
        step(engine)
    assert engine.load().held_blocks == 0
    assert engine.load().total_finished_requests == 1
    return [s.token_ids[s.num_prompt_tokens :].tolist() for s in first.request.sequences]


def test_each_output_is_that_of_its_own_seed(loaded: Engine) -> None:
    alone = [
        run(renewed(loaded, 64), [PROMPT], SamplingParams(seed=seed_of(7, i), max_tokens=40, ignore_eos=True))
        for i in range(4)
    ]
    assert [[output] for output in outputs(renewed(loaded, 64), 4)] == alone
    assert len({tuple(output) for [output] in alone}) == 4


def test_the_first_output_is_that_of_a_request_for_one(loaded: Engine) -> None:
    assert outputs(renewed(loaded, 64), 3)[:1] == run(renewed(loaded, 64), [PROMPT], SEEDED)


@pytest.mark.parametrize("prefix_caching", [True, False])
def test_the_prompt_is_computed_once(loaded: Engine, prefix_caching: bool) -> None:
    engine = renewed(loaded, 200, prefix_caching=prefix_caching)
    engine.add(engine.make_sequence(PROMPT, SamplingParams(n=8, max_tokens=4, ignore_eos=True)))
    engine.step()
    assert engine.last_step is not None
    assert engine.last_step.num_prefill_tokens == len(PROMPT)
    assert engine.last_step.num_drawn_tokens == 8
    computed = 0
    while engine.has_work:
        engine.step()
        computed += engine.last_step.num_prefill_tokens
    assert computed == 0


def test_eight_samples_hold_little_more_than_one(tiny_model: Callable[..., Path]) -> None:
    folder = str(tiny_model("llama", max_position_embeddings=1024))
    config = EngineConfig(model=folder, dtype="float32", kv_cache_memory="8Mi", threads=1)
    engine = load_engine(open_model(folder), config)

    def most_blocks(n: int) -> int:
        params = SamplingParams(n=n, max_tokens=16, ignore_eos=True)
        engine.add(engine.make_sequence(list(range(100 + n, 356 + n)) * 2, params))
        most = 0
        while engine.has_work:
            engine.step()
            most = max(most, engine.load().held_blocks)
        return most

    assert most_blocks(1) == 33
    assert most_blocks(8) == 40


def test_more_outputs_than_seats_and_few_blocks(loaded: Engine) -> None:
    roomy = outputs(renewed(loaded, 200), 7)
    assert outputs(renewed(loaded, 64, max_num_seqs=3), 7) == roomy
    assert outputs(renewed(loaded, 9), 7) == roomy
    assert outputs(renewed(loaded, 9, prefix_caching=False), 7) == roomy


def test_a_cancel_gives_everything_back(loaded: Engine) -> None:
    engine = renewed(loaded, 64)
    for steps in (0, 1, 5):
        first = engine.make_sequence(PROMPT, SamplingParams(n=4, max_tokens=30, ignore_eos=True))
        engine.add(first)
        for _ in range(steps):
            step(engine)
        engine.cancel(first)
        engine.check()
        assert not engine.has_work
        assert engine.load().held_blocks == 0
    assert engine.load().total_finished_requests == 3


def test_outputs_that_were_begun_elsewhere_go_on(loaded: Engine) -> None:
    whole = outputs(renewed(loaded, 64), 3)
    told = [Resumption(tuple(output[:cut])) for output, cut in zip(whole, (0, 13, 39), strict=True)]
    assert outputs(renewed(loaded, 64), 3, Resumption(outputs=tuple(told))) == whole


async def test_an_end_that_nobody_noticed_is_told(tiny_model: Callable[..., Path]) -> None:
    folder = str(tiny_model("llama"))
    config = EngineConfig(model=folder, dtype="float32", kv_cache_memory="8Mi", threads=1)
    engine = AsyncEngine.load_model(config)
    await engine.start()
    params = SamplingParams(n=2, seed=7, max_tokens=5, stop_token_ids=(33,), ignore_eos=True)
    told = Resumption(outputs=(Resumption((1, 33)), Resumption((1, 2))))
    deltas = [delta async for delta in engine.submit(PROMPT, params, resume=told)]
    ends = {delta.index: delta.finish_reason for delta in deltas if delta.finish_reason is not None}
    assert ends[0] is FinishReason.STOP
    assert set(ends) == {0, 1}
    assert sum(len(delta.token_ids) for delta in deltas if delta.index == 1) <= 3
    await engine.stop()


@pytest.mark.parametrize(
    ("resume", "field"),
    [
        (Resumption((1, 2)), "resume.outputs"),
        (Resumption(outputs=(Resumption((1,)),)), "resume.outputs"),
        (Resumption((1,), outputs=(Resumption((1,)), Resumption(()))), "resume.token_ids"),
        (Resumption(outputs=(Resumption((1,)), Resumption((99999,)))), "resume.outputs[1].token_ids[0]"),
    ],
)
def test_what_was_told_must_be_of_each_output(loaded: Engine, resume: Resumption, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        renewed(loaded, 64).make_sequence(PROMPT, SamplingParams(n=2), resume=resume)
    assert [violation.field for violation in caught.value.violations] == [field]


@pytest.fixture(scope="module")
def llm(smollm2_path: Path) -> LLM:
    return LLM(str(smollm2_path), dtype="float32", kv_cache_memory="64Mi", threads=2)


def test_the_outputs_of_several_prompts_are_told_apart(llm: LLM) -> None:
    several = SamplingParams(n=2, seed=1, max_tokens=6)
    answers = llm.generate(
        ["One, two,", "The sky is"], [several, SamplingParams(temperature=0, max_tokens=5)]
    )
    assert [answer.index for answer in answers] == [0, 1, 0]
    assert answers[0].text != answers[1].text
    assert answers[0].usage.num_output_tokens == 12


def test_best_of_keeps_the_likeliest(llm: LLM) -> None:
    every = SamplingParams(n=6, seed=3, max_tokens=8, logprobs=0)
    all_six = llm.generate("Once upon a time", every)
    means = [sum(t.logprob for t in answer.logprobs) / len(answer.logprobs) for answer in all_six]
    ranked = sorted(zip(means, [answer.text for answer in all_six], strict=True), reverse=True)
    best = llm.generate("Once upon a time", SamplingParams(n=2, best_of=6, seed=3, max_tokens=8))
    assert [answer.text for answer in best] == [text for _, text in ranked[:2]]
    assert [answer.score for answer in best] == pytest.approx([mean for mean, _ in ranked[:2]])
    assert [answer.logprobs for answer in best] == [(), ()]


def test_stop_strings_end_each_output_for_itself(llm: LLM) -> None:
    params = SamplingParams(n=4, seed=5, max_tokens=30, stop=("e",))
    answers = llm.generate("Once upon a time", params)
    assert len(answers) == 4
    assert all("e" not in answer.text for answer in answers)
