"""Biases, allowed tokens, bad words and scored prompts through the whole engine, against Transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo.engine.bad_words import BadWords
from octavo.engine.config import EngineConfig
from octavo.engine.constraints import Constraints
from octavo.engine.engine import Engine
from octavo.engine.errors import InvalidRequest
from octavo.engine.llm import LLM
from octavo.engine.loading import load_engine
from octavo.engine.masks import Masking, mask_of
from octavo.engine.models.source import open_model
from octavo.engine.output import FinishReason
from octavo.engine.params import SamplingParams
from octavo.engine.thinking import ThinkTags

from .conftest import renewed, run, step, transformers_logits

PROMPT = [11, 12, 13, 11, 12, 13, 11, 12]


@pytest.fixture(scope="module")
def loaded(tiny_model: Callable[..., Path]) -> tuple[Engine, Any]:
    from transformers import AutoModelForCausalLM

    folder = tiny_model("llama")
    config = EngineConfig(model=str(folder), dtype="float32", kv_cache_memory="8Mi", threads=1)
    return load_engine(open_model(str(folder)), config), AutoModelForCausalLM.from_pretrained(folder).eval()


def transformers(model: Any, num_tokens: int, **settings: Any) -> list[int]:
    import torch

    ids = torch.tensor([PROMPT])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=num_tokens,
        eos_token_id=None,
        pad_token_id=0,
        **settings,
    )
    return output[0, len(PROMPT) :].tolist()


def constrained(engine: Engine, params: SamplingParams, constraints: Constraints) -> list[int]:
    sequence = engine.make_sequence(PROMPT, params, constraints=constraints)
    engine.add(sequence)
    while engine.has_work:
        step(engine)
    return sequence.token_ids[len(PROMPT) :].tolist()


def test_biases_are_added_to_logits(loaded: tuple[Engine, Any]) -> None:
    [plain] = run(
        renewed(loaded[0], 64), [PROMPT], SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    )
    bias = {plain[3]: -100.0, plain[9]: -0.5, 77: 0.3}
    expected = transformers(loaded[1], 40, sequence_bias=[[[token], value] for token, value in bias.items()])
    params = SamplingParams(temperature=0, max_tokens=40, logit_bias=bias, ignore_eos=True)
    assert run(renewed(loaded[0], 64), [PROMPT], params) == [expected]
    assert expected != plain


def test_bad_words_are_those_of_transformers(loaded: tuple[Engine, Any]) -> None:
    greedy = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    [plain] = run(renewed(loaded[0], 64), [PROMPT], greedy)
    words = [plain[2:3], plain[5:8], [PROMPT[-1], plain[0]], plain[10:12]]
    expected = transformers(loaded[1], 40, bad_words_ids=words)
    constraints = Constraints(bad_words=BadWords(words))
    assert constrained(renewed(loaded[0], 64), greedy, constraints) == expected
    assert expected != plain


def test_only_allowed_tokens_come(loaded: tuple[Engine, Any]) -> None:
    engine = renewed(loaded[0], 64)
    allowed = (3, 64, 65, 300)
    params = SamplingParams(temperature=0, max_tokens=30, allowed_token_ids=allowed, ignore_eos=True)
    output = constrained(engine, params, Constraints(allowed=mask_of(allowed, engine.model.vocab_size)))
    so_far = [*PROMPT]
    for token in output:
        logits = transformers_logits(loaded[1], so_far)[-1]
        assert token == max(allowed, key=lambda candidate: logits[candidate])
        so_far.append(token)


def test_a_constrained_sequence_does_not_touch_its_neighbours(loaded: tuple[Engine, Any]) -> None:
    greedy = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    narrow = SamplingParams(temperature=0, max_tokens=20, allowed_token_ids=(3, 64), ignore_eos=True)
    [alone] = run(renewed(loaded[0], 64), [PROMPT], greedy)
    engine = renewed(loaded[0], 64)
    allowed = Constraints(allowed=mask_of((3, 64), engine.model.vocab_size))
    sequences = [
        engine.make_sequence(PROMPT, greedy),
        engine.make_sequence(PROMPT, narrow, constraints=allowed),
        engine.make_sequence(PROMPT, greedy),
    ]
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        step(engine)
    outputs = [s.token_ids[len(PROMPT) :].tolist() for s in sequences]
    assert outputs[0] == outputs[2] == alone
    assert set(outputs[1]) <= {3, 64}


@pytest.mark.parametrize(
    "settings", [{}, {"max_num_batched_tokens": 8, "max_num_seqs": 4}, {"num_blocks": 9}]
)
def test_prompt_logprobs_are_those_of_transformers(
    loaded: tuple[Engine, Any], settings: dict[str, int]
) -> None:
    engine = renewed(loaded[0], **{"num_blocks": 64, **settings})
    prompts = [list(range(50, 91)), list(range(50, 91)), PROMPT]  # the second one could be found in the cache
    params = SamplingParams(temperature=0, max_tokens=40, prompt_logprobs=2, ignore_eos=True)
    sequences = [engine.make_sequence(prompt, params) for prompt in prompts]
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        step(engine)
    for prompt, sequence in zip(prompts, sequences, strict=True):
        logits = transformers_logits(loaded[1], prompt).astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        found = sequence.request.prompt_logprobs
        assert [entry.token_id for entry in found] == prompt[1:]
        for at, entry in enumerate(found):
            assert entry.logprob == pytest.approx(expected[at, prompt[at + 1]], abs=1e-4)
            assert [token for token, _ in entry.top] == np.argsort(-expected[at])[:2].tolist()


def test_repetition_ends_the_output(loaded: tuple[Engine, Any]) -> None:
    engine = renewed(loaded[0], 64)
    params = SamplingParams(
        temperature=0,
        max_tokens=60,
        logit_bias={5: 100.0},
        repetition_pattern=3,
        repetition_count=6,
        ignore_eos=True,
    )
    sequence = engine.make_sequence(PROMPT, params)
    engine.add(sequence)
    while engine.has_work:
        step(engine)
    assert sequence.finish_reason is FinishReason.REPETITION
    assert sequence.token_ids[len(PROMPT) :].tolist() == [5] * 6


@pytest.mark.parametrize(("prompt_thinks", "budget"), [(True, 5), (True, 0), (False, 5)])
def test_thinking_is_closed_when_its_budget_is_used_up(
    loaded: tuple[Engine, Any], prompt_thinks: bool, budget: int
) -> None:
    engine = renewed(loaded[0], 64)
    tags = ThinkTags(open_id=350, close_id=351)
    bias = {351: -100.0} if prompt_thinks else {350: -100.0, 351: -100.0}
    params = SamplingParams(
        temperature=0, max_tokens=30, thinking_budget=budget, logit_bias=bias, ignore_eos=True
    )
    prompt = [*PROMPT, 350] if prompt_thinks else PROMPT
    sequence = engine.make_sequence(prompt, params, constraints=Constraints(tags=tags))
    engine.add(sequence)
    while engine.has_work:
        step(engine)
    output = sequence.token_ids[len(prompt) :].tolist()
    assert [at for at, token in enumerate(output) if token == 351] == ([budget] if prompt_thinks else [])


def test_a_form_is_that_of_the_answer(llm: LLM) -> None:
    """A model may open its thinking first, and the form begins when that is closed."""
    token = llm.tokenizer.backend.token_to_id
    opening, closing, word = token("<jupyter_start>"), token("<jupyter_text>"), token("Ġsky")
    params = SamplingParams(regex="yes|no", thinking_budget=1)
    constraints = llm._constraints.compile(replace(params, thinking_budget=None))
    constraints = replace(constraints, tags=ThinkTags(opening, closing))
    sequence = llm._engine.make_sequence([500, 501], params, constraints=constraints)
    masking = Masking(llm.model.vocab_size)

    def allowed() -> set[int]:
        rows, masks = masking.begin([sequence])
        if masks is None:
            return set(range(llm.model.vocab_size))
        assert rows == [0]
        return set(np.flatnonzero(np.unpackbits(masks()[0].view(np.uint8), bitorder="little")))

    assert sequence.constraint is not None
    answers = {token("yes"), token("no"), token("y"), token("n"), token("ye")}
    assert allowed() - answers == {opening}
    sequence.constraint.accept(opening)
    assert len(allowed()) == llm.model.vocab_size
    sequence.constraint.accept(word)
    assert allowed() == {closing}
    sequence.constraint.accept(closing)
    assert allowed() <= answers


def test_allowed_tokens_that_all_end_the_output_clash_with_min_tokens(loaded: tuple[Engine, Any]) -> None:
    params = SamplingParams(allowed_token_ids=(5,), stop_token_ids=(5,), min_tokens=3)
    with pytest.raises(InvalidRequest, match="min_tokens"):
        renewed(loaded[0], 64).make_sequence(PROMPT, params)


@pytest.fixture(scope="module")
def llm(smollm2_path: Path) -> LLM:
    return LLM(str(smollm2_path), dtype="float32", kv_cache_memory="64Mi")


def test_bad_words_never_come(llm: LLM) -> None:
    prompt = "The three primary colours are"
    [plain] = llm.generate(prompt, SamplingParams(temperature=0, max_tokens=24))
    word = next(word for word in plain.text.split() if word.isalpha())
    [without] = llm.generate(prompt, SamplingParams(temperature=0, max_tokens=24, bad_words=(word,)))
    assert word not in without.text


def test_a_schema_gives_json_of_it(llm: LLM) -> None:
    import json

    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    params = SamplingParams(n=3, seed=1, max_tokens=80, json_schema=json.dumps(schema))
    for answer in llm.generate("Describe a person as JSON: ", params):
        if answer.finish_reason is FinishReason.EOS:
            found = json.loads(answer.text)
            assert isinstance(found["name"], str)
            assert isinstance(found["age"], int)
    [either] = llm.generate(
        "Is water wet? ", SamplingParams(temperature=0, choice=("yes", "no"), max_tokens=5)
    )
    assert either.text in ("yes", "no")
    assert either.finish_reason is FinishReason.EOS


def test_jumping_forward_and_not_jumping_write_the_same(llm: LLM) -> None:
    params = {"temperature": 0, "regex": r'\{"temperature": [0-9]{2}, "unit": "celsius"\}', "max_tokens": 60}
    [jumped] = llm.generate("Report the weather: ", SamplingParams(**params))  # type: ignore[arg-type]
    [walked] = llm.generate("Report the weather: ", SamplingParams(**params, logprobs=0))  # type: ignore[arg-type]
    assert len(walked.logprobs) == len(walked.token_ids)
    assert jumped.finish_reason is walked.finish_reason is FinishReason.EOS
    assert jumped.text == walked.text
