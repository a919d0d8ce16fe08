"""Beam search inside the engine, whose hypotheses are those of Transformers'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from octavo.engine.config import EngineConfig
from octavo.engine.decoding import NewToken
from octavo.engine.engine import Engine
from octavo.engine.errors import InvalidRequest
from octavo.engine.loading import load_engine
from octavo.engine.models.source import open_model
from octavo.engine.output import FinishReason
from octavo.engine.params import SamplingParams

from .conftest import renewed, run

PROMPTS = [[11, 12, 13, 11, 12], [7, 90, 41], list(range(60, 97)), [5] * 16]
LENGTH_PENALTIES = [1.0, 0.0, 2.0, -1.0]


@pytest.fixture(scope="module")
def loaded(tiny_model: Callable[..., Path]) -> tuple[Engine, Any]:
    from transformers import AutoModelForCausalLM

    folder = tiny_model("llama")
    config = EngineConfig(model=str(folder), dtype="float32", kv_cache_memory="8Mi", threads=1)
    return load_engine(open_model(str(folder)), config), AutoModelForCausalLM.from_pretrained(folder).eval()


Hypotheses = list[tuple[list[int], float]]


def hypotheses(engine: Engine, prompts: Sequence[Sequence[int]], params: SamplingParams) -> list[Hypotheses]:
    """What beam search makes of each prompt, all batched together, best first."""
    firsts = [engine.make_sequence(prompt, params) for prompt in prompts]
    for first in firsts:
        engine.add(first)
    new: list[NewToken] = []
    while engine.has_work:
        new += engine.step()
        engine.check()
    assert engine.load().held_blocks == 0
    found: list[Hypotheses] = []
    for first in firsts:
        outputs: list[list[int]] = [[] for _ in range(params.n)]
        scores = [0.0] * params.n
        for token in new:
            if token.sequence.request is first.request:
                outputs[token.sequence.index].append(token.token_id)
                if token.score is not None:
                    scores[token.sequence.index] = token.score
        found.append(list(zip(outputs, scores, strict=True)))
    return found


def oracle(
    model: Any, prompt: Sequence[int], params: SamplingParams, eos: list[int], **more: Any
) -> Hypotheses:
    """Transformers' own."""
    import torch

    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        num_beams=params.beam_width,
        num_return_sequences=params.n,
        length_penalty=params.length_penalty,
        early_stopping={"yes": True, "no": False, "never": "never"}[params.early_stopping],
        max_new_tokens=params.max_tokens,
        do_sample=False,
        eos_token_id=eos or None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        **more,
    )
    found = []
    for ids, score in zip(output.sequences.tolist(), output.sequences_scores.tolist(), strict=True):
        tokens = ids[len(prompt) :]
        end = next((i + 1 for i, token in enumerate(tokens) if token in eos), len(tokens))
        found.append((tokens[:end], score))
    return found


def assert_same(ours: Hypotheses, theirs: Hypotheses) -> None:
    assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in theirs]
    assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], rel=1e-5, abs=1e-4)


def frequent(loaded: tuple[Engine, Any]) -> list[int]:
    """Tokens that turn up in the tiny model's beams: with them as the end, searches end at all lengths."""
    params = SamplingParams(beam_width=4, n=4, max_tokens=12, ignore_eos=True)
    [found] = hypotheses(renewed(loaded[0], 64), PROMPTS[:1], params)
    return sorted({tokens[4] for tokens, _ in found} | {tokens[7] for tokens, _ in found})


@pytest.mark.parametrize("early_stopping", ["no", "yes", "never"])
@pytest.mark.parametrize("length_penalty", LENGTH_PENALTIES)
def test_hypotheses_are_those_of_transformers(
    loaded: tuple[Engine, Any], length_penalty: float, early_stopping: Any
) -> None:
    eos = frequent(loaded)
    params = SamplingParams(
        beam_width=4,
        n=3,
        length_penalty=length_penalty,
        **({} if early_stopping == "no" else {"early_stopping": early_stopping}),
        max_tokens=24,
        stop_token_ids=tuple(eos),
        ignore_eos=True,
    )
    ours = hypotheses(renewed(loaded[0], 200), PROMPTS, params)
    for prompt, found in zip(PROMPTS, ours, strict=True):
        assert_same(found, oracle(loaded[1], prompt, params, eos))


@pytest.mark.parametrize("width", [2, 8])
def test_to_the_length_without_an_end(loaded: tuple[Engine, Any], width: int) -> None:
    params = SamplingParams(beam_width=width, n=width, max_tokens=20, ignore_eos=True)
    ours = hypotheses(renewed(loaded[0], 200), PROMPTS, params)
    for prompt, found in zip(PROMPTS, ours, strict=True):
        assert_same(found, oracle(loaded[1], prompt, params, []))


def test_penalties_apply_to_log_probabilities_as_in_transformers(loaded: tuple[Engine, Any]) -> None:
    params = SamplingParams(beam_width=3, n=3, max_tokens=16, ignore_eos=True, repetition_penalty=1.4)
    [ours] = hypotheses(renewed(loaded[0], 64), PROMPTS[:1], params)
    assert_same(ours, oracle(loaded[1], PROMPTS[0], params, [], repetition_penalty=1.4))


def test_min_tokens_are_those_of_transformers(loaded: tuple[Engine, Any]) -> None:
    eos = frequent(loaded)
    params = SamplingParams(
        beam_width=4, n=4, max_tokens=20, min_tokens=9, stop_token_ids=tuple(eos), ignore_eos=True
    )
    [ours] = hypotheses(renewed(loaded[0], 64), PROMPTS[:1], params)
    assert_same(ours, oracle(loaded[1], PROMPTS[0], params, eos, min_new_tokens=9))


def test_the_same_where_blocks_and_seats_are_scarce(loaded: tuple[Engine, Any]) -> None:
    params = SamplingParams(beam_width=4, n=4, max_tokens=24, ignore_eos=True)
    roomy = hypotheses(renewed(loaded[0], 200), PROMPTS, params)
    for settings in ({"max_num_seqs": 5}, {"prefix_caching": False}):
        for tight, wide in zip(
            hypotheses(renewed(loaded[0], 21, **settings), PROMPTS, params), roomy, strict=True
        ):
            assert_same(tight, wide)


def test_beside_other_requests(loaded: tuple[Engine, Any]) -> None:
    engine = renewed(loaded[0], 200)
    greedy = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    beams = SamplingParams(beam_width=4, n=1, max_tokens=24, ignore_eos=True)
    [alone] = run(engine, PROMPTS[:1], greedy)
    [[(best, _)]] = hypotheses(renewed(loaded[0], 200), PROMPTS[1:2], beams)
    assert run(renewed(loaded[0], 200), PROMPTS[:2], [greedy, beams]) == [alone, best]


def test_beams_share_what_they_have_in_common(loaded: tuple[Engine, Any]) -> None:
    engine = renewed(loaded[0], 200)
    engine.add(engine.make_sequence([5] * 64, SamplingParams(beam_width=8, max_tokens=30, ignore_eos=True)))
    most = 0
    while engine.has_work:
        engine.step()
        most = max(most, engine.load().held_blocks)
    assert most <= 4 + 8 * 2


def test_a_search_ends_by_its_end_of_sequence_or_length(loaded: tuple[Engine, Any]) -> None:
    engine = renewed(loaded[0], 64)
    eos = frequent(loaded)
    params = SamplingParams(beam_width=4, n=4, max_tokens=24, stop_token_ids=tuple(eos), ignore_eos=True)
    first = engine.make_sequence(PROMPTS[0], params)
    engine.add(first)
    ends = []
    while engine.has_work:
        ends += [new for new in engine.step() if new.finish_reason is not None]
    assert len(ends) == 4
    for end in ends:
        assert end.finish_reason is (FinishReason.STOP if end.token_id in eos else FinishReason.LENGTH)


def test_what_can_never_fit_is_refused(loaded: tuple[Engine, Any]) -> None:
    engine = renewed(loaded[0], 16, max_num_seqs=4)
    for params in (
        SamplingParams(beam_width=5, max_tokens=4),
        SamplingParams(beam_width=4, max_tokens=200),
    ):
        with pytest.raises(InvalidRequest, match="beam_width"):
            engine.make_sequence(PROMPTS[0], params)
    with pytest.raises(InvalidRequest, match="n: must not exceed beam_width"):
        engine.make_sequence(PROMPTS[0], SamplingParams(beam_width=2, n=3, max_tokens=4))
    with pytest.raises(InvalidRequest, match="hold"):
        engine.make_sequence(PROMPTS[0], SamplingParams(beam_width=2, max_tokens=4), hold=True)
