"""Parameters of decoding over gRPC: several outputs, beams, forms, ends, and what is told."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from octavo.engine.combinations import CLASHES, NEEDS, STRUCTURES
from octavo.service.rpc.sampling import message_of
from octavo.v1 import inference_pb2 as pb
from tests.service.conftest import Answer, Serving, World, as_prompt, chat, collect, refused

PROMPT = "Pages of keys and values are shared between sequences"
SCHEMA = {
    "type": "object",
    "properties": {"animal": {"enum": ["fox", "dog"]}, "quick": {"type": "boolean"}},
    "required": ["animal", "quick"],
    "additionalProperties": False,
}
NOT_DEFAULT: dict[str, Any] = {
    "best_of": 2,
    "beam_width": 2,
    "length_penalty": 0.5,
    "early_stopping": "yes",
    "min_tokens": 1,
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.5,
    "min_p": 0.5,
    "seed": 1,
    "allowed_token_ids": (5,),
    "bad_words": ("owl",),
    "stop": ("x",),
    "include_stop": True,
    "ignore_eos": True,
    "repetition_pattern": 2,
    "repetition_count": 3,
    "thinking_budget": 4,
    "json_schema": "{}",
    "json_object": True,
    "regex": "a",
    "choice": ("a",),
    "grammar": 'start: "a"',
    "logprobs": 1,
}


async def outputs(world: World, prompt: str | pb.Prompt = PROMPT, **sampling: Any) -> list[Answer]:
    """What came of one request, output by output."""
    values = {"max_tokens": 12, **sampling}
    request = pb.GenerateRequest(prompt=as_prompt(prompt), sampling=message_of(values))
    deltas = (await collect(world.inference.Generate(request))).deltas
    found = by_index(deltas)
    assert sorted(found) == list(range(values.get("n", 1)))
    return [found[index] for index in sorted(found)]


async def output(world: World, prompt: str | pb.Prompt = PROMPT, **sampling: Any) -> Answer:
    [only] = await outputs(world, prompt, **sampling)
    return only


def by_index(deltas: Iterable[pb.Delta]) -> dict[int, Answer]:
    """The deltas of each output, which end where its finish reason is."""
    found: dict[int, list[pb.Delta]] = defaultdict(list)
    for delta in deltas:
        assert not (found[delta.index] and found[delta.index][-1].finish_reason)
        found[delta.index].append(delta)
    assert all(told[-1].finish_reason for told in found.values())
    return {index: Answer(told) for index, told in found.items()}


def mean_logprob(answer: Answer) -> float:
    logprobs = [entry.chosen.logprob for delta in answer.deltas for entry in delta.logprobs]
    return sum(logprobs) / len(logprobs)


def reasoning(answer: Answer) -> str:
    return "".join(delta.reasoning for delta in answer.deltas)


# Several outputs.


async def test_outputs_differ_repeat_themselves_and_the_first_is_that_of_a_request_for_one(
    world: World,
) -> None:
    first, second, third = await outputs(world, n=3, seed=7)
    again = await outputs(world, n=3, seed=7)
    assert [each.token_ids for each in again] == [each.token_ids for each in (first, second, third)]
    assert len({tuple(each.token_ids) for each in again}) == 3
    assert (await output(world, seed=7)).token_ids == first.token_ids


async def test_the_prompt_counts_once_and_every_output(world: World) -> None:
    alone = await output(world, seed=7, ignore_eos=True)
    three = await outputs(world, n=3, seed=7, ignore_eos=True)
    usage = max((each.usage for each in three), key=lambda usage: usage.output_tokens)
    assert usage.prompt_tokens == alone.usage.prompt_tokens
    assert usage.output_tokens == 3 * 12
    await world.until_idle()


async def test_the_best_outputs_come_with_their_scores(world: World) -> None:
    best = await outputs(world, n=2, best_of=5, seed=3, logprobs=0)
    scores = [each.deltas[-1].score for each in best]
    assert scores == sorted(scores, reverse=True)
    assert scores == pytest.approx([mean_logprob(each) for each in best], abs=1e-4)
    drawn = await outputs(world, n=5, seed=3, logprobs=0)
    assert scores == pytest.approx(sorted(map(mean_logprob, drawn), reverse=True)[:2], abs=1e-4)


async def test_a_score_is_told_only_of_what_was_chosen_among_others(world: World) -> None:
    for each in await outputs(world, n=2):
        assert not any(delta.HasField("score") for delta in each.deltas)


async def test_beams_are_sorted_and_no_worse_than_greedy(world: World) -> None:
    beams = await outputs(world, n=3, beam_width=4, ignore_eos=True)
    scores = [each.deltas[-1].score for each in beams]
    assert scores == sorted(scores, reverse=True)
    assert len({tuple(each.token_ids) for each in beams}) == 3
    greedy = await output(world, temperature=0, ignore_eos=True, logprobs=0)
    assert scores[0] >= mean_logprob(greedy) - 1e-4
    await world.until_idle()


async def test_cancelling_a_call_frees_the_blocks_of_all_outputs(world: World) -> None:
    sampling = message_of({"n": 4, "ignore_eos": True})
    call = world.inference.Generate(pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=sampling))
    await call.read()
    call.cancel()
    await world.until_idle()


# Sessions.


async def test_a_request_of_a_session_ends_with_its_last_output(world: World) -> None:
    session = world.session()
    for _ in range(2):  # the id can be used again at once
        await session.submit("a", "Hello", sampling=message_of({"n": 3, "max_tokens": 5}))
        assert (await session.next_event("a")).WhichOneof("event") == "accepted"
        deltas: list[pb.Delta] = []
        while sum(bool(delta.finish_reason) for delta in deltas) < 3:
            deltas.append((await session.next_event("a")).delta)
        assert sorted(by_index(deltas)) == [0, 1, 2]
    await world.until_idle()


async def test_cancel_ends_every_output(world: World) -> None:
    session = world.session()
    await session.submit("a", "Hello", sampling=message_of({"n": 2, "ignore_eos": True}))
    assert (await session.next_event("a")).WhichOneof("event") == "accepted"
    deltas = [(await session.next_event("a")).delta]
    await session.cancel("a")
    while sum(bool(delta.finish_reason) for delta in deltas) < 2:
        deltas.append((await session.next_event("a")).delta)
    assert [each.finish_reason for each in by_index(deltas).values()] == [pb.FINISH_REASON_CANCELLED] * 2
    await world.until_idle()


@pytest.mark.parametrize("several", [{"n": 2}, {"best_of": 2}, {"beam_width": 2}])
async def test_several_outputs_cannot_be_held(world: World, several: dict[str, int]) -> None:
    session = world.session()
    await session.submit("a", "Hello", sampling=message_of(several), hold=True)
    refusal = await session.rejection("a")
    assert refusal.code == "INVALID_ARGUMENT"
    assert refusal.violations[0][0] == "submit.hold"


async def test_a_continuation_has_no_prompt_logprobs(world: World) -> None:
    session = world.session()
    await session.submit("a", "Hello", hold=True)
    await session.answer("a")
    await session.continue_from("a", "b", "And", sampling=message_of({"prompt_logprobs": 1}))
    refusal = await session.rejection("b")
    assert refusal.violations[0][0] == "continuation.sampling.prompt_logprobs"


async def test_a_chat_goes_on_from_an_echo_as_from_its_answer(world: World) -> None:
    session = world.session()
    answers = []
    for name, echo in (("plain", False), ("echo", True)):
        sampling = message_of({"temperature": 0, "max_tokens": 6, "echo": echo})
        await session.submit(name, chat("Hello"), sampling=sampling, hold=True)
        await session.answer(name)
        await session.continue_from(name, f"{name}-2", chat("And?"))
        answers.append(await session.answer(f"{name}-2"))
    plain, echoed = answers
    assert echoed.usage.prompt_tokens == plain.usage.prompt_tokens
    assert echoed.token_ids == plain.token_ids


# Resumption.


async def test_several_outputs_go_on_where_another_server_left_them(world: World) -> None:
    sampling = {"n": 3, "seed": 5, "ignore_eos": True}
    whole = await outputs(world, **sampling)
    told = [3, 0, 12]
    resume = pb.Resumption(
        outputs=[
            pb.Resumption(
                token_ids=each.token_ids[:count],
                finish_reason=each.finish_reason if count == 12 else pb.FINISH_REASON_UNSPECIFIED,
            )
            for each, count in zip(whole, told, strict=True)
        ]
    )
    request = pb.GenerateRequest(
        prompt=as_prompt(PROMPT), sampling=message_of({"max_tokens": 12, **sampling}), resume=resume
    )
    rest = by_index((await collect(world.inference.Generate(request))).deltas)
    assert sorted(rest) == [0, 1]
    for index, answer in rest.items():
        assert answer.token_ids == whole[index].token_ids[told[index] :]
        assert whole[index].text.endswith(answer.text)
    assert max(answer.usage.output_tokens for answer in rest.values()) == 36


ONE, TWO = pb.Resumption(token_ids=[7]), pb.Resumption(outputs=[pb.Resumption(), pb.Resumption()])
RESUMPTIONS = {
    "too few": ({"n": 3}, TWO, "resume.outputs"),
    "for one": ({}, TWO, "resume.outputs"),
    "not in outputs": ({"n": 2}, pb.Resumption(token_ids=[7], outputs=TWO.outputs), "resume.token_ids"),
    "of outputs": (
        {"n": 2},
        pb.Resumption(outputs=[pb.Resumption(), pb.Resumption(outputs=[ONE])]),
        "resume.outputs[1].outputs",
    ),
    "of one": (
        {"n": 2},
        pb.Resumption(outputs=[ONE, pb.Resumption(token_ids=[999])]),
        "resume.outputs[1].to",
    ),
    "best_of": ({"n": 2, "best_of": 3}, TWO, "resume"),
}


@pytest.mark.parametrize("case", RESUMPTIONS)
async def test_a_resumption_has_an_entry_for_each_output(world: World, case: str) -> None:
    sampling, resume, field = RESUMPTIONS[case]
    request = pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=message_of(sampling), resume=resume)
    refusal = await refused(world.inference.Generate(request))
    assert refusal.code == "INVALID_ARGUMENT"
    assert refusal.violations[0][0].startswith(field)


# Forms.


@pytest.mark.parametrize("seed", range(3))
async def test_json_follows_its_schema(world: World, seed: int) -> None:
    answer = await output(world, json_schema=json.dumps(SCHEMA), seed=seed, max_tokens=200)
    value = json.loads(answer.text)
    assert value.keys() == {"animal", "quick"}
    assert value["animal"] in ("fox", "dog")
    assert isinstance(value["quick"], bool)
    assert answer.finish_reason in (pb.FINISH_REASON_EOS, pb.FINISH_REASON_STOP)


async def test_outputs_have_the_other_forms(world: World) -> None:
    code = await output(world, regex=r"[a-f]{3}-\d{2}", seed=1)
    assert re.fullmatch(r"[a-f]{3}-\d{2}", code.text)
    word = await output(world, choice=("owl", "fox"), seed=1)
    assert word.text in ("owl", "fox")
    sentence = await output(world, grammar='start: ("fox" | "dog") " sleeps"', seed=1)
    assert sentence.text in ("fox sleeps", "dog sleeps")


async def test_several_outputs_have_a_form_each(world: World) -> None:
    answers = await outputs(world, choice=("owl", "fox", "dog"), n=4, seed=2)
    assert {answer.text for answer in answers} <= {"owl", "fox", "dog"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("json_schema", "{"), ("json_schema", '{"type": "poem"}'), ("regex", "("), ("grammar", "start: x")],
)
async def test_a_form_that_is_none_is_refused(world: World, field: str, value: str) -> None:
    sampling = message_of({field: value})
    request = pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=sampling)
    refusal = await refused(world.inference.Generate(request))
    assert refusal.code == "INVALID_ARGUMENT"
    assert refusal.violations[0][0] == f"sampling.{field}"
    session = world.session()
    await session.submit("a", "Hello", sampling=sampling)
    assert (await session.rejection("a")).violations[0][0] == f"submit.sampling.{field}"


# Which tokens.


async def test_a_bias_forbids_a_token_or_brings_it(world: World) -> None:
    greedy = await output(world, temperature=0, ignore_eos=True)
    token = greedy.token_ids[0]
    without = await output(world, temperature=0, ignore_eos=True, logit_bias={token: -100})
    assert token not in without.token_ids
    always = await output(world, temperature=0, ignore_eos=True, logit_bias={7: 100})
    assert set(always.token_ids) == {7}


async def test_only_allowed_tokens_come(world: World) -> None:
    answer = await output(world, allowed_token_ids=(40, 41, 42), temperature=1.5, max_tokens=30)
    assert set(answer.token_ids) == {40, 41, 42}


async def test_a_bad_word_does_not_come(world: World) -> None:
    [fox] = world.engine.tokenizer.encode(" fox", add_special_tokens=False)
    favoured = {"temperature": 0, "ignore_eos": True, "logit_bias": {fox: 30}}
    assert " fox" in (await output(world, **favoured)).text
    assert "fox" not in (await output(world, **favoured, bad_words=("fox",))).text


# Ends.


async def test_a_stop_string_may_be_part_of_the_text(world: World) -> None:
    whole = await output(world, temperature=0, ignore_eos=True, max_tokens=30)
    stop = whole.text[5:8]
    end = whole.text.index(stop)
    without = await output(world, temperature=0, ignore_eos=True, max_tokens=30, stop=(stop,))
    included = await output(
        world, temperature=0, ignore_eos=True, max_tokens=30, stop=(stop,), include_stop=True
    )
    assert without.text == whole.text[:end]
    assert included.text == whole.text[: end + len(stop)]
    assert included.finish_reason == pb.FINISH_REASON_STOP


async def test_an_output_that_repeats_itself_ends(world: World) -> None:
    stuck = {"temperature": 0, "ignore_eos": True, "logit_bias": {7: 100}, "max_tokens": 30}
    answer = await output(world, **stuck, repetition_pattern=3, repetition_count=5)
    assert answer.finish_reason == pb.FINISH_REASON_REPETITION
    assert answer.token_ids == [7] * 5
    assert (await output(world, **stuck)).finish_reason == pb.FINISH_REASON_LENGTH


# What is told.


async def test_prompt_logprobs_are_of_all_tokens_but_the_first(world: World) -> None:
    tokens = (await world.inference.Tokenize(pb.TokenizeRequest(text=PROMPT))).token_ids
    for _ in range(2):  # the second finds its prompt in the cache
        first, second = await outputs(world, n=2, prompt_logprobs=2, seed=1)
        told = first.deltas[0].prompt_logprobs
        assert [entry.chosen.token_id for entry in told] == tokens[1:]
        assert all(len(entry.top) == 2 and entry.chosen.logprob <= 0 for entry in told)
        assert not any(delta.prompt_logprobs for delta in (*first.deltas[1:], *second.deltas))


async def test_an_echo_is_the_prompt_before_each_output(world: World) -> None:
    plain = await outputs(world, n=2, seed=4)
    echoed = await outputs(world, n=2, seed=4, echo=True)
    assert [each.text for each in echoed] == [PROMPT + each.text for each in plain]
    assert [each.token_ids for each in echoed] == [each.token_ids for each in plain]


# Thinking.


async def test_what_is_thought_is_no_text_and_ends_with_its_budget(
    serving: Serving, thinking_model: Path
) -> None:
    world = await serving(model=thinking_model)
    sampling = {"temperature": 0, "ignore_eos": True, "max_tokens": 12}
    thinking = await output(world, "Why? <think>", **sampling)
    assert thinking.text == ""
    assert reasoning(thinking)
    answering = await output(world, "Why? <think>", **sampling, thinking_budget=4)
    assert reasoning(thinking).startswith(reasoning(answering))
    assert answering.text
    assert "</think>" not in answering.text + reasoning(answering)
    assert len(answering.token_ids) == 12


async def test_a_form_is_that_of_the_answer(serving: Serving, thinking_model: Path) -> None:
    world = await serving(model=thinking_model)
    answer = await output(world, "Why? <think>", choice=("owl", "fox"), thinking_budget=4, seed=1)
    assert reasoning(answer)
    assert answer.text in ("owl", "fox")


async def test_a_model_without_tags_has_no_budget(world: World) -> None:
    request = pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=message_of({"thinking_budget": 4}))
    refusal = await refused(world.inference.Generate(request))
    assert refusal.violations[0][0] == "sampling.thinking_budget"


# A model that has learned to speak.


async def test_the_demo_model_answers_in_the_form_that_is_asked_for(
    serving: Serving, smollm2_path: Path
) -> None:
    world = await serving(model=smollm2_path, kv_cache_memory="256Mi")
    question = chat("Name an animal that is quick, as JSON.")
    answers = await outputs(world, question, json_schema=json.dumps(SCHEMA), n=2, seed=1, max_tokens=60)
    assert all(json.loads(each.text).keys() == SCHEMA["properties"].keys() for each in answers)
    beams = await outputs(world, chat("What is 2 + 2?"), beam_width=3, n=2, max_tokens=12)
    assert "4" in beams[0].text
    assert beams[0].deltas[-1].score >= beams[1].deltas[-1].score


# What does not go together.

SAYABLE = [clash for clash in CLASHES if not {clash.field, clash.other} <= set(STRUCTURES)]


async def fields_refused(world: World, names: Sequence[str]) -> dict[str, str]:
    sampling = message_of({name: NOT_DEFAULT[name] for name in names})
    request = pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=sampling)
    refusal = await refused(world.inference.Generate(request))
    assert refusal.code == "INVALID_ARGUMENT"
    return dict(refusal.violations)


@pytest.mark.parametrize("clash", SAYABLE, ids=lambda clash: f"{clash.field}, {clash.other}")
async def test_what_makes_no_sense_together_is_refused_by_name(world: World, clash: Any) -> None:
    told = await fields_refused(world, (clash.field, clash.other))
    assert f"must not be set with {clash.other}: {clash.why}" in told[f"sampling.{clash.field}"]


@pytest.mark.parametrize("need", NEEDS, ids=lambda need: f"{need.field}, {need.other}")
async def test_what_makes_no_sense_alone_is_refused_by_name(world: World, need: Any) -> None:
    told = await fields_refused(world, (need.field,))
    assert f"must not be set without {need.other}" in told[f"sampling.{need.field}"]


async def test_what_only_the_engine_can_tell_has_its_name_too(world: World) -> None:
    request = pb.GenerateRequest(
        prompt=as_prompt("Hello"), sampling=message_of({"n": 3, "beam_width": 2, "max_tokens": 4})
    )
    refusal = await refused(world.inference.Generate(request))
    assert refusal.violations == [("sampling.n", "must not exceed beam_width, 2 (got 3)")]


async def test_a_field_of_a_later_protocol_is_found_beside_a_mapping(world: World) -> None:
    sampling = message_of({"logit_bias": {1: 1.0}}).SerializeToString() + b"\xf8\x3f\x01"
    request = pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=pb.SamplingParams.FromString(sampling))
    refusal = await refused(world.inference.Generate(request))
    assert "field number 1023 of octavo.v1.SamplingParams is not known" in refusal.violations[0][1]
