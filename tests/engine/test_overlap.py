"""The overlapped loop: whatever it is asked, it says what the plain loop says."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.engine.config import BLOCK_SIZE, EngineConfig
from octavo.engine.decoding import NewToken
from octavo.engine.engine import Engine
from octavo.engine.errors import ConfigError
from octavo.engine.info import ModelInfo
from octavo.engine.llm import LLM, Completion
from octavo.engine.loading import load_engine
from octavo.engine.models.source import open_model
from octavo.engine.output import FinishReason
from octavo.engine.params import SamplingParams
from octavo.engine.runners.threaded import ThreadedRunner
from octavo.engine.sequence import Sequence
from tests.conftest import TinyModel

from .paper_runner import EOS, VOCAB_SIZE, PaperRunner

PROMPT = [11, 12, 13, 14, 15]


@dataclass(frozen=True)
class Arrival:
    """A request, the step before which it comes, and after how many output tokens somebody ends it."""

    prompt: list[int]
    params: SamplingParams
    step: int = 0
    end_after: int | None = None
    reason: FinishReason = FinishReason.CANCELLED


def paper_engine(num_blocks: int, *, overlap: bool, max_num_seqs: int = 4, budget: int = 24) -> Engine:
    runner = PaperRunner(num_blocks)
    model = ModelInfo(
        name="paper",
        family="paper",
        dtype="float32",
        device="cpu",
        vocab_size=VOCAB_SIZE,
        max_model_len=num_blocks * BLOCK_SIZE,
        eos_token_ids=(EOS,),
        block_size=BLOCK_SIZE,
        num_blocks=num_blocks,
        block_bytes=runner.block_bytes,
    )
    config = EngineConfig(max_num_seqs=max_num_seqs, max_num_batched_tokens=budget)
    return Engine(ThreadedRunner(runner) if overlap else runner, model, config, overlap=overlap)


def serve(engine: Engine, arrivals: list[Arrival]) -> list[list[NewToken]]:
    """What each request was told, until its reader had enough. Invariants are checked every step."""
    sequences = [engine.make_sequence(arrival.prompt, arrival.params) for arrival in arrivals]
    told: dict[int, list[NewToken]] = {sequence.number: [] for sequence in sequences}
    ended: set[Sequence] = set()
    step = 0
    while engine.has_work or any(arrival.step >= step for arrival in arrivals):
        for arrival, sequence in zip(arrivals, sequences, strict=True):
            if arrival.step == step:
                engine.add(sequence)
        for new in engine.step():
            if new.sequence.request.first not in ended:
                told[new.sequence.request.first.number].append(new)
        engine.check()
        for arrival, sequence in zip(arrivals, sequences, strict=True):
            if arrival.end_after is not None and sequence.num_output_tokens >= arrival.end_after:
                for each in sequence.request.sequences:
                    engine.finish(each, arrival.reason)
                ended.add(sequence)
        engine.check()
        step += 1
    load = engine.load()
    assert (load.held_blocks, load.running, load.waiting) == (0, 0, 0)
    assert load.total_finished_requests == len(arrivals)
    return [told[sequence.number] for sequence in sequences]


def contents(new: NewToken) -> tuple[Any, ...]:
    return new.sequence.index, new.token_id, new.logprobs, new.finish_reason, new.score


def outputs(told: list[list[NewToken]]) -> list[list[tuple[Any, ...]]]:
    """Several outputs of a request come in the order of their steps, which is not that of the plain loop."""
    return [sorted(map(contents, request), key=lambda output: output[0]) for request in told]


@st.composite
def arrivals(draw: st.DrawFn) -> Arrival:
    start = draw(st.sampled_from([0, 0, 3]))
    prompt = [start + i % 7 for i in range(draw(st.integers(1, 60)))]
    kind = draw(
        st.sampled_from(["plain", "plain", "plain", "penalty", "several", "beams", "late", "logprobs"])
    )
    max_tokens = draw(st.integers(1, 24))
    params = SamplingParams(
        temperature=1.0, seed=draw(st.integers(0, 3)), max_tokens=max_tokens, ignore_eos=draw(st.booleans())
    )
    if kind == "penalty":
        params = replace(params, frequency_penalty=0.5)
    elif kind == "several":
        params = replace(params, n=3)
    elif kind == "beams":
        params = SamplingParams(n=2, beam_width=2, max_tokens=min(max_tokens, 6))
    elif kind == "late":
        params = replace(params, min_tokens=max_tokens // 2, logit_bias={4: 1.0})
    elif kind == "logprobs":
        params = replace(params, logprobs=3, stop_token_ids=(4, 5, 6))
    reason = draw(st.sampled_from([FinishReason.CANCELLED, FinishReason.STOP]))
    # Outputs of several sequences are at different lengths when the first is at a given one.
    end_after = draw(st.none() | st.integers(1, 12)) if kind not in ("several", "beams") else None
    return Arrival(prompt, params, draw(st.integers(0, 20)), end_after, reason)


@settings(max_examples=150)
@given(st.lists(arrivals(), min_size=1, max_size=8), st.integers(9, 24))
def test_any_workload_has_the_outputs_of_the_plain_loop(work: list[Arrival], num_blocks: int) -> None:
    plain = serve(paper_engine(num_blocks, overlap=False), work)
    overlapped = serve(paper_engine(num_blocks, overlap=True), work)
    assert outputs(overlapped) == outputs(plain)


def test_the_next_step_runs_before_this_ones_tokens_are_known() -> None:
    engine = paper_engine(16, overlap=True)
    sequence = engine.make_sequence(PROMPT, SamplingParams(seed=1, max_tokens=8, ignore_eos=True))
    engine.add(sequence)
    flights = []
    while engine.has_work:
        engine.step()
        flights.append(engine._ahead is not None)
    assert sequence.num_output_tokens == 8
    assert flights == [True] * 7 + [False], "and no step is computed for a sequence whose length is reached"


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(seed=1, max_tokens=8, ignore_eos=True, presence_penalty=1.0),
        SamplingParams(max_tokens=8, beam_width=2),
    ],
)
def test_who_must_know_the_token_makes_the_next_step_wait(params: SamplingParams) -> None:
    engine = paper_engine(16, overlap=True)
    engine.add(engine.make_sequence(PROMPT, params))
    while engine.has_work:
        engine.step()
        assert engine._ahead is None


def test_a_step_for_a_sequence_that_has_ended_is_not_counted() -> None:
    engine = paper_engine(16, overlap=True)
    [expected] = serve(
        paper_engine(16, overlap=False), [Arrival(PROMPT, SamplingParams(seed=1, max_tokens=9))]
    )
    stop = expected[4].token_id
    params = SamplingParams(seed=1, max_tokens=9, stop_token_ids=(stop,))
    sequence = engine.make_sequence(PROMPT, params)
    engine.add(sequence)
    computed = 0
    while engine.has_work:
        engine.step()
        if engine.last_step is not None:
            computed += engine.last_step.num_prefill_tokens + engine.last_step.num_decode_tokens
    assert sequence.finish_reason is FinishReason.STOP
    assert computed == len(sequence.token_ids) - 1
    assert engine.load().total_output_tokens == sequence.num_output_tokens


def test_no_token_is_computed_behind_a_length_that_is_reached() -> None:
    engine = paper_engine(32, overlap=True)
    sequences = [
        engine.make_sequence(PROMPT, SamplingParams(seed=1, max_tokens=length, ignore_eos=True))
        for length in (3, 9, 14)
    ]
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        engine.step()
    runner = engine._runner
    assert isinstance(runner, ThreadedRunner)
    assert isinstance(runner._runner, PaperRunner)
    assert runner._runner.num_computed == sum(len(sequence.token_ids) - 1 for sequence in sequences)


def test_a_block_that_was_taken_too_early_is_given_back_by_who_is_held() -> None:
    engine = paper_engine(16, overlap=True)
    sequence = engine.make_sequence(PROMPT, SamplingParams(seed=1, max_tokens=60, ignore_eos=True), hold=True)
    engine.add(sequence)
    while len(sequence.token_ids) < BLOCK_SIZE + 1:
        engine.step()
    engine.finish(sequence, FinishReason.STOP)
    assert engine.load().held_blocks == 2, "one for the token that is being computed"
    while engine.has_work:
        engine.step()
        engine.check()
    assert engine.load().held_blocks == 1


def test_a_reader_who_falls_behind_is_told_the_same() -> None:
    def told(overlap: bool) -> list[int]:
        engine = paper_engine(16, overlap=overlap)
        sequence = engine.make_sequence(
            PROMPT, SamplingParams(seed=1, max_tokens=30, ignore_eos=True), unread_limit=3
        )
        engine.add(sequence)
        while sequence.finish_reason is None:
            engine.step()
            engine.check()
            if not engine.has_work:
                sequence.num_read_tokens = sequence.num_output_tokens
                engine.resume(sequence)
        return sequence.token_ids.tolist()

    assert told(True) == told(False)


SCHEMA = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
FORMS: list[dict[str, Any]] = [
    {"regex": "[a-f]{3,9}"},
    {"json_schema": SCHEMA},
    {"choice": ("red", "green")},
    {"frequency_penalty": 0.7},
    {"repetition_penalty": 1.3},
    {"bad_words": ("e", "qu")},
    {"allowed_token_ids": tuple(range(40, 90))},
    {"beam_width": 3, "n": 2},
    {"n": 3},
    {"best_of": 3, "n": 1},
    {"stop": ("a", "ox")},
    {"stop": ("e",), "include_stop": True},
    {"min_tokens": 6, "ignore_eos": False},
    {"logit_bias": {7: 4.0, 9: -5.0}},
    {"logprobs": 2},
    {"prompt_logprobs": 1},
    {"repetition_pattern": 3, "repetition_count": 2},
]


def workload() -> tuple[list[list[int]], list[SamplingParams]]:
    """Sixty requests, most of them of no special kind, that share two beginnings."""
    chance = random.Random(5)
    beginnings = [[chance.randrange(3, 300) for _ in range(60)] for _ in range(2)]
    prompts, params = [], []
    for i in range(60):
        own = [chance.randrange(3, 300) for _ in range(chance.choice([1, 5, 30, 90]))]
        prompts.append([*chance.choice([[], *beginnings]), *own])
        sampling = {"temperature": 0} if i % 3 == 0 else {"top_p": 0.9, "top_k": 30}
        special = FORMS[i // 2 % len(FORMS)] if i % 2 else {}
        draws = {} if "beam_width" in special else {"seed": i, **sampling}
        params.append(SamplingParams(max_tokens=chance.randrange(6, 40), **draws, **special))
    return prompts, params


def generate(path: Path, overlap: str, **settings: Any) -> tuple[list[Completion], Engine]:
    llm = LLM(
        str(path),
        overlap=overlap,
        dtype="float32",
        kv_cache_memory="400Ki",
        max_num_seqs=12,
        max_num_batched_tokens=48,
        threads=1,
        **settings,
    )
    prompts, params = workload()
    completions = llm.generate(prompts, params, progress=False)
    llm._engine.check()
    assert llm._engine.load().held_blocks == 0
    return completions, llm._engine


def test_a_workload_of_everything_has_the_completions_of_the_plain_loop(tiny_model: TinyModel) -> None:
    """On the native runner, whose results do not depend on the batch: log-probabilities to the last bit."""
    plain, plainly = generate(tiny_model("llama"), "off")
    overlapped, engine = generate(tiny_model("llama"), "on")
    assert [replace(c, usage=None) for c in overlapped] == [replace(c, usage=None) for c in plain]
    for ours, theirs in zip(overlapped, plain, strict=True):
        # How much of a prompt is found in the cache depends on what was evicted before it came.
        assert replace(ours.usage, num_cached_tokens=0) == replace(theirs.usage, num_cached_tokens=0)
    assert plainly.load().preemptions > 0
    assert engine.load().preemptions > 0


def test_the_torch_runner_says_the_same_tokens(tiny_model: TinyModel) -> None:
    plain, _ = generate(tiny_model("llama"), "off", runner="torch")
    overlapped, _ = generate(tiny_model("llama"), "on", runner="torch")
    assert [c.token_ids for c in overlapped] == [c.token_ids for c in plain]
    assert [c.finish_reason for c in overlapped] == [c.finish_reason for c in plain]


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ({"speculation": "ngram"}, r"^overlap: must be off or auto with speculation, ngram.*\(got 'on'\)$"),
        ({"tensor_parallel_size": 2}, r"^overlap: must be off or auto for 2 ranks.*\(got 'on'\)$"),
    ],
)
def test_what_needs_each_token_at_once_is_refused(
    tiny_model: TinyModel, setting: dict[str, Any], rule: str
) -> None:
    path = str(tiny_model("llama"))
    with pytest.raises(ConfigError, match=rule):
        load_engine(open_model(path), EngineConfig(model=path, overlap="on", **setting))
