"""Two and four processes give what one does, for every family, whatever is asked together."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from octavo.engine import LLM, Completion, ConfigError, SamplingParams
from octavo.engine.batch import Batch, StepOutput
from octavo.engine.errors import RankLost
from octavo.engine.parallel import ranks as ranks_module
from octavo.engine.parallel import runner
from octavo.engine.parallel.ranks import Ranks
from tests.conftest import TinyModel

from ..models.conftest import convert
from .conftest import OnRanks, Pool
from .test_sharded_decoder import CASES, NATIVE

LENGTHS = (1, 5, 16, 17, 40, 130)
SCHEMA = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}


def answers(llm: LLM) -> list[Completion]:
    """Ragged prompts, most of them cut into chunks, some of which begin alike; a form, beams, guesses that
    are drawn, log-probabilities: all in one batch."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 320, length).tolist() for length in LENGTHS]
    prompts += [[*prompts[-1][:100], 7, 8], prompts[-1][:64]]
    params = [SamplingParams(**GREEDY) for _ in prompts]
    prompts += [prompts[1], prompts[2], prompts[3], prompts[4]]
    params += [
        SamplingParams(temperature=0, max_tokens=20, json_schema=SCHEMA),
        SamplingParams(beam_width=4, n=4, max_tokens=8, ignore_eos=True),
        SamplingParams(temperature=0.8, top_p=0.9, n=2, seed=1, max_tokens=8, ignore_eos=True),
        SamplingParams(**GREEDY, repetition_penalty=1.2, logprobs=2, prompt_logprobs=1),
    ]
    return llm.generate(prompts, params, progress=False)


OF_RUNNERS = {"torch": CASES, "native": NATIVE}


@pytest.fixture(
    scope="module",
    params=[(runner, *case) for runner, cases in OF_RUNNERS.items() for case in cases.values()],
    ids=[f"{runner}, {name}" for runner, cases in OF_RUNNERS.items() for name in cases],
)
def model(request: pytest.FixtureRequest, tiny_model: TinyModel) -> tuple[Path, str, list[Completion]]:
    """A family's tiny model, a runner's name, and what one process of it makes of the requests."""
    name, family, overrides = request.param
    path = tiny_model(family, **overrides)
    settings: dict[str, Any] = {"dtype": "float32", "threads": 1, "kv_cache_memory": "4Mi"}
    one = LLM(str(path), runner=name, max_num_batched_tokens=64, **settings)
    return path, name, answers(one)


@pytest.mark.parametrize("size", [2, 4])
def test_tokens_of_one_process(
    model: tuple[Path, str, list[Completion]], on_ranks: OnRanks, size: int
) -> None:
    path, name, expected = model
    llm = on_ranks(path, size, runner=name, max_num_batched_tokens=64)
    first, again = answers(llm), answers(llm)
    assert [c.token_ids for c in first] == [c.token_ids for c in expected]
    assert [c.token_ids for c in again] == [c.token_ids for c in expected]
    assert [c.finish_reason for c in first] == [c.finish_reason for c in expected]
    for ours, theirs in zip(first, expected, strict=True):
        assert [entry.logprob for entry in ours.logprobs] == pytest.approx(
            [entry.logprob for entry in theirs.logprobs], abs=1e-4
        )
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)
    assert again[5].usage.num_cached_tokens == 128
    llm._engine.check()


def test_a_quantised_gguf_file(tiny_model: TinyModel, tmp_path: Path, on_ranks: OnRanks) -> None:
    path = tmp_path / "tiny.gguf"
    convert(tiny_model("llama"), "llama", path, Kind.Q8_0, {})
    one, four = (answers(on_ranks(path, size)) for size in (1, 4))
    assert [c.token_ids for c in four] == [c.token_ids for c in one]


@pytest.mark.parametrize("name", ["torch", "native"])
def test_guessed_tokens(tiny_model: TinyModel, on_ranks: OnRanks, name: str) -> None:
    path = tiny_model("llama")
    expected = answers(on_ranks(path, 1, runner=name))
    for settings in ({"speculation": "ngram"}, {"speculation": "draft", "draft_model": str(path)}):
        found = answers(on_ranks(path, 2, runner=name, **settings))
        assert [c.token_ids for c in found] == [c.token_ids for c in expected]


def test_the_same_bits_every_time(tiny_model: TinyModel, on_ranks: OnRanks) -> None:
    llm = on_ranks(tiny_model("qwen2"), 4, prefix_caching=False)
    once, twice = ([c.logprobs for c in answers(llm)] for _ in range(2))
    assert once == twice


def test_what_the_ranks_have_is_told_as_one(tiny_model: TinyModel, on_ranks: OnRanks) -> None:
    """Two key-value heads are divided by two ranks; four have one each."""
    path = tiny_model("llama")
    one, two, four = (on_ranks(path, size).model for size in (1, 2, 4))
    assert (one.device, two.device, four.device) == ("cpu", "cpu × 2", "cpu × 4")
    assert (two.block_bytes, four.block_bytes) == (one.block_bytes, 2 * one.block_bytes)
    assert (two.num_blocks, four.num_blocks) == (one.num_blocks, one.num_blocks // 2)


def test_ctrl_c_waits_for_the_end_of_a_step_and_costs_no_model(
    tiny_model: TinyModel, on_ranks: OnRanks, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = on_ranks(tiny_model("llama"), 2, prefix_caching=False)
    before = answers(llm)
    own: Any = llm._engine._runner._own  # type: ignore[attr-defined]
    run = own.run

    def interrupted(batch: Batch) -> StepOutput:
        os.kill(os.getpid(), signal.SIGINT)
        return run(batch)

    with monkeypatch.context() as patch:
        patch.setattr(own, "run", interrupted)
        # As in a terminal: tests that run in the background find SIGINT ignored.
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                llm.generate([[5] * 40] * 8, SamplingParams(**GREEDY), progress=False)
        finally:
            signal.signal(signal.SIGINT, handler)
    assert llm._engine.load().held_blocks == 0
    assert answers(llm) == before


def test_gloo_serves_where_stores_are_not_ordered(
    tiny_model: TinyModel, on_ranks: OnRanks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processes too, until one of them is lost in the middle of a step."""
    expected = answers(on_ranks(tiny_model("qwen3"), 1))
    monkeypatch.setattr(ranks_module, "is_possible", lambda: False)
    ranks = Ranks(2)
    monkeypatch.setattr(runner, "Ranks", lambda size: ranks)
    llm = on_ranks(tiny_model("qwen3"), 2)
    assert [c.token_ids for c in answers(llm)] == [c.token_ids for c in expected]

    os.kill(ranks.process_ids[0], signal.SIGSTOP)
    with pytest.raises(RankLost, match="rank 1 has said nothing for 3 s"):
        answers(llm)
    ranks.close()


@pytest.fixture
def unshared(pool: Pool) -> Iterator[None]:
    yield
    assert all(ranks.watch.lost is None for ranks in pool._started.values())


@pytest.mark.usefixtures("unshared")
def test_what_a_rank_refuses_rank_0_does(tiny_model: TinyModel, on_ranks: OnRanks, tmp_path: Path) -> None:
    llm = on_ranks(tiny_model("llama"), 2)
    with pytest.raises(ConfigError, match=r"kv_cache_memory: .* GiB could not be allocated"):
        llm._engine._runner.allocate(2**56 // llm.model.block_bytes)  # more than any address space
    # And all go on.
    assert len(on_ranks(tiny_model("qwen3"), 2).generate([[5, 6]], progress=False)) == 1
