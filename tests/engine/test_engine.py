"""The engine on a tiny model: how sequences end, continue, and what a step leaves behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from octavo.engine.config import EngineConfig, RunnerName
from octavo.engine.engine import Engine
from octavo.engine.errors import ConfigError, InvalidRequest, ModelError
from octavo.engine.loading import load_engine
from octavo.engine.models.source import open_model
from octavo.engine.output import FinishReason
from octavo.engine.params import SamplingParams
from octavo.engine.sequence import Sequence

from .conftest import renewed, run

PROMPT = [11, 12, 13, 14, 15]
GREEDY = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)


@pytest.fixture(scope="module")
def loaded(tiny_model: Callable[..., Path]) -> Engine:
    folder = str(tiny_model("llama"))
    return load_engine(
        open_model(folder), EngineConfig(model=folder, dtype="float32", kv_cache_memory="8Mi", threads=1)
    )


@pytest.fixture
def engine(loaded: Engine) -> Engine:
    return renewed(loaded, 64)


def finish(engine: Engine, sequence: Sequence, **how: Any) -> list[int]:
    engine.add(sequence, **how)
    while engine.has_work:
        engine.step()
        engine.check()
    return sequence.token_ids[sequence.num_prompt_tokens :].tolist()


def test_max_tokens_ends_with_length(engine: Engine) -> None:
    sequence = engine.make_sequence(PROMPT, GREEDY)
    assert len(finish(engine, sequence)) == 20
    assert sequence.finish_reason is FinishReason.LENGTH


def test_the_context_ends_with_length(engine: Engine) -> None:
    sequence = engine.make_sequence([7] * 500, SamplingParams(temperature=0, ignore_eos=True, max_tokens=99))
    assert len(finish(engine, sequence)) == 12
    assert sequence.finish_reason is FinishReason.LENGTH


def test_a_stop_token_ends_with_stop(engine: Engine) -> None:
    [output] = run(engine, [PROMPT], GREEDY)
    stop = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, stop_token_ids=(output[3],))
    sequence = engine.make_sequence(PROMPT, stop)
    assert finish(engine, sequence) == output[: output.index(output[3]) + 1]
    assert sequence.finish_reason is FinishReason.STOP


def test_min_tokens_forbids_stop_tokens_until_then(engine: Engine) -> None:
    [output] = run(engine, [PROMPT], GREEDY)
    stop = tuple(set(output[:10]))
    late = SamplingParams(temperature=0, max_tokens=20, min_tokens=15, ignore_eos=True, stop_token_ids=stop)
    result = finish(engine, engine.make_sequence(PROMPT, late))
    assert len(result) >= 15
    assert not set(result[:15]) & set(stop)


def test_the_end_of_sequence_ends_unless_ignored(engine: Engine) -> None:
    [output] = run(engine, [PROMPT], GREEDY)
    engine.model = replace(engine.model, eos_token_ids=(output[2],))
    sequence = engine.make_sequence(PROMPT, SamplingParams(temperature=0, max_tokens=20))
    assert finish(engine, sequence) == output[: output.index(output[2]) + 1]
    assert sequence.finish_reason is FinishReason.EOS


def test_a_seeded_sequence_is_the_same_in_any_batch(engine: Engine) -> None:
    seeded = SamplingParams(seed=5, max_tokens=20, ignore_eos=True)
    [alone] = run(engine, [PROMPT], seeded)
    others = [SamplingParams(max_tokens=20, ignore_eos=True)] * 6
    assert run(engine, [[n] for n in range(6)] + [PROMPT], [*others, seeded])[-1] == alone


def test_a_seeded_sequence_continues_from_its_tokens_so_far(engine: Engine) -> None:
    """What a gateway does when a pod dies: prompt plus tokens so far, elsewhere."""
    seeded = SamplingParams(seed=5, max_tokens=20, ignore_eos=True)
    [whole] = run(engine, [PROMPT], seeded)
    rest = SamplingParams(seed=5, max_tokens=12, ignore_eos=True)
    assert run(engine, [PROMPT + whole[:8]], rest) == [whole[8:]]


def test_a_continuation_computes_only_the_new_tokens(engine: Engine) -> None:
    parent = engine.make_sequence(PROMPT, GREEDY, hold=True)
    finish(engine, parent)
    turn = [*parent.token_ids, 21, 22, 23]
    child = engine.make_sequence(turn, GREEDY)
    output = finish(engine, child, continues=parent)
    # All but the parent's last token, which was drawn but never computed.
    assert child.num_cached_tokens == len(PROMPT) + 20 - 1
    assert run(renewed(engine, 64, prefix_caching=False), [turn], GREEDY) == [output]


def test_a_kept_parent_can_be_continued_twice(engine: Engine) -> None:
    parent = engine.make_sequence(PROMPT, GREEDY, hold=True)
    finish(engine, parent)
    for turn in ([21, 22], [31]):
        child = engine.make_sequence([*parent.token_ids, *turn], GREEDY)
        finish(engine, child, continues=parent, keep_parent=True)
        assert child.num_cached_tokens == 24
    assert engine.load().held_blocks == 2
    engine.release(parent)
    assert engine.load().held_blocks == 0


def test_a_continuation_that_leaves_the_parents_tokens_keeps_what_is_common(engine: Engine) -> None:
    parent = engine.make_sequence(PROMPT * 4, GREEDY, hold=True)
    finish(engine, parent)
    changed = [*parent.token_ids[:18], 99, 98, 97]
    child = engine.make_sequence(changed, GREEDY)
    output = finish(engine, child, continues=parent)
    assert child.num_cached_tokens == 18
    assert run(renewed(engine, 64, prefix_caching=False), [changed], GREEDY) == [output]


def test_a_parent_whose_blocks_are_gone_is_computed_again(engine: Engine) -> None:
    parent = engine.make_sequence(PROMPT, GREEDY, hold=True)
    finish(engine, parent)
    engine.release(parent)
    child = engine.make_sequence([*parent.token_ids, 21], GREEDY)
    assert len(finish(engine, child, continues=parent)) == 20


def test_an_output_cut_at_a_stop_string_continues_from_there(engine: Engine) -> None:
    parent = engine.make_sequence(PROMPT, GREEDY, hold=True)
    finish(engine, parent)
    engine.finish(parent, FinishReason.STOP, num_output_tokens=6)
    assert len(parent.token_ids) == 11
    child = engine.make_sequence([*parent.token_ids, 40], GREEDY)
    output = finish(engine, child, continues=parent)
    assert run(renewed(engine, 64, prefix_caching=False), [[*parent.token_ids, 40]], GREEDY) == [output]


def test_a_cancelled_sequence_frees_its_blocks_at_once(engine: Engine) -> None:
    sequence = engine.make_sequence(PROMPT, GREEDY, hold=True)
    engine.add(sequence)
    engine.step()
    engine.finish(sequence, FinishReason.CANCELLED)
    assert engine.load().held_blocks == 0
    engine.check()


@pytest.mark.parametrize(
    ("prompt", "rule"),
    [([], "empty"), ([5] * 512, "shorter than the context of 512"), ([384], r"in \[0, 384\)"), ([-1], "in")],
)
def test_a_bad_prompt_is_refused(engine: Engine, prompt: list[int], rule: str) -> None:
    with pytest.raises(InvalidRequest, match=rule):
        engine.make_sequence(prompt, GREEDY)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_num_seqs": 0},
        {"max_num_seqs": 64, "max_num_batched_tokens": 63},
        {"max_model_len": 513},
        {"max_model_len": 0},
        {"threads": 0},
        {"max_waiting": 0},
        {"stream_buffer": 0},
        {"hold_timeout": -1.0},
        {"kv_cache_memory": "1Ki"},
        {"device": "tpu"},
        {"device": "cuda:99"},
    ],
    ids=str,
)
def test_a_setting_that_cannot_work_is_refused_by_name(
    tiny_model: Callable[..., Path], settings: dict[str, Any]
) -> None:
    folder = str(tiny_model("llama"))
    with pytest.raises(ConfigError, match=next(reversed(settings))):
        load_engine(open_model(folder), EngineConfig(model=folder, **settings))


def test_a_pool_smaller_than_the_context_makes_the_context_shorter(tiny_model: Callable[..., Path]) -> None:
    folder = str(tiny_model("llama"))
    engine = load_engine(
        open_model(folder), EngineConfig(model=folder, dtype="float32", kv_cache_memory="160Ki")
    )
    assert engine.model.max_model_len == engine.model.num_blocks * 16 < 512


@pytest.mark.parametrize("runner", ["auto", "torch"])
def test_weights_that_do_not_fit_are_refused_before_they_are_loaded(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, runner: RunnerName
) -> None:
    from octavo.engine.runners.native import runner as native
    from octavo.engine.runners.torch import runner as torch

    for module in (native, torch):
        monkeypatch.setattr(module, "available_memory", lambda: 2**16)
    folder = str(tiny_model("llama"))
    with pytest.raises(ModelError, match=r"weights take .* GiB in float32, and 0\.0 GiB are free on cpu"):
        load_engine(open_model(folder), EngineConfig(model=folder, runner=runner))


def test_loading_leaves_no_threads_to_compete_with_those_that_step(tiny_model: Callable[..., Path]) -> None:
    """OpenMP keeps a pool per thread that computes; two pools on one machine halve the speed."""
    code = f"""
import os, torch
from octavo.engine.config import EngineConfig, RunnerName
from octavo.engine.loading import load_engine
from octavo.engine.models.source import open_model
before = len(os.listdir("/proc/self/task"))
load_engine(open_model({str(tiny_model("llama"))!r}), EngineConfig(kv_cache_memory="1Mi", runner="torch"))
assert len(os.listdir("/proc/self/task")) == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)
