"""Parameters of decoding over HTTP: choices, beams, forms, ends, and what is told."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from octavo.engine.combinations import CLASHES, NEEDS
from octavo.service.rpc.sampling import message_of
from octavo.v1 import inference_pb2 as pb
from tests.service.conftest import as_prompt, collect
from tests.service.openai.conftest import USER, Door, Opening
from tests.service.test_decoding import NOT_DEFAULT, PROMPT, SCHEMA

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
GREEDY = {"temperature": 0, "ignore_eos": True, "max_tokens": 12}


async def answer(door: Door, path: str = TEXT, **given: Any) -> dict[str, Any]:
    body = ({"prompt": PROMPT} if path == TEXT else {"messages": USER}) | {"max_tokens": 12} | given
    response = await door.post(path, body)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def events(door: Door, path: str = TEXT, **given: Any) -> list[dict[str, Any]]:
    body = ({"prompt": PROMPT} if path == TEXT else {"messages": USER}) | {"max_tokens": 12} | given
    response = await door.post(path, body | {"stream": True})
    assert response.status_code == 200, response.text
    *told, done = response.text.removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(each.removeprefix("data: ")) for each in told]


def texts(body: dict[str, Any]) -> list[str]:
    assert [choice["index"] for choice in body["choices"]] == list(range(len(body["choices"])))
    return [choice["text"] for choice in body["choices"]]


def joined(told: list[dict[str, Any]]) -> list[str]:
    """The texts of a stream's choices, whose last event each has a finish reason."""
    found: dict[int, str] = defaultdict(str)
    ended = set()
    for event in told:
        for choice in event["choices"]:
            assert choice["index"] not in ended
            found[choice["index"]] += choice["text"]
            ended |= {choice["index"]} if choice["finish_reason"] else set()
    assert ended == set(found)
    return [found[index] for index in sorted(found)]


# Choices.


async def test_choices_are_the_outputs_of_grpc(door: Door) -> None:
    sampling = message_of({"n": 3, "seed": 7, "max_tokens": 12})
    request = pb.GenerateRequest(prompt=as_prompt(PROMPT), sampling=sampling)
    by_grpc: dict[int, str] = defaultdict(str)
    for delta in (await collect(door.world.inference.Generate(request))).deltas:
        by_grpc[delta.index] += delta.text
    assert texts(await answer(door, n=3, seed=7)) == [by_grpc[index] for index in range(3)]


async def test_a_prompt_counts_once_for_all_its_choices(door: Door) -> None:
    alone = (await answer(door, ignore_eos=True))["usage"]
    three = (await answer(door, ignore_eos=True, n=3))["usage"]
    assert three["prompt_tokens"] == alone["prompt_tokens"]
    assert three["completion_tokens"] == 3 * 12
    assert three["total_tokens"] == alone["prompt_tokens"] + 36


async def test_choices_of_several_prompts_stand_in_the_order_of_the_prompts(door: Door) -> None:
    prompts = ["Pages", "of keys", "and values"]
    each = [await answer(door, prompt=prompt, n=2, seed=5) for prompt in prompts]
    together = await answer(door, prompt=prompts, n=2, seed=5)
    assert texts(together) == [text for body in each for text in texts(body)]
    for name in ("prompt_tokens", "completion_tokens"):
        assert together["usage"][name] == sum(body["usage"][name] for body in each)


async def test_a_stream_of_several_choices_tells_its_usage_once(door: Door) -> None:
    given = {"prompt": ["Pages", "of keys"], "n": 2, "seed": 5}
    whole = await answer(door, **given)
    *told, last = await events(door, **given, stream_options={"include_usage": True})
    assert joined(told) == texts(whole)
    assert all(event["usage"] is None for event in told)
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], whole["usage"]["completion_tokens"])
    assert last["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]


async def test_each_choice_of_a_chat_begins_with_its_role(door: Door) -> None:
    told = await events(door, CHAT, n=3, seed=1, ignore_eos=True)
    first: dict[int, Any] = {}
    for event in told:
        [choice] = event["choices"]
        first.setdefault(choice["index"], choice["delta"])
    assert first == {index: {"role": "assistant", "content": ""} for index in range(3)}


async def test_who_leaves_frees_the_blocks_of_all_choices(door: Door) -> None:
    body = {"prompt": "Hello", "n": 4, "max_tokens": 3000, "ignore_eos": True}
    waiting = asyncio.create_task(door.post(TEXT, body))
    await door.world.until(lambda load: load.running == 4)
    waiting.cancel()
    await door.world.until_idle()


async def test_the_best_come_first_with_their_scores(door: Door) -> None:
    best = (await answer(door, n=2, best_of=5, seed=3, logprobs=0))["choices"]
    means = [sum(values) / len(values) for values in (each["logprobs"]["token_logprobs"] for each in best)]
    assert [each["score"] for each in best] == pytest.approx(means, abs=1e-4)
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize("given", [{"use_beam_search": True}, {"beam_width": 4, "length_penalty": 0.5}])
async def test_beams_come_first_the_likeliest(door: Door, given: dict[str, Any]) -> None:
    beams = (await answer(door, n=3, temperature=0, ignore_eos=True, **given))["choices"]
    scores = [each["score"] for each in beams]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    told = await events(door, n=3, temperature=0, ignore_eos=True, **given)
    assert joined(told) == [each["text"] for each in beams]


# Forms.

FORMS: dict[str, dict[str, Any]] = {
    "OpenAI": {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
    "vLLM": {"structured_outputs": {"json": SCHEMA}},
    "vLLM's older": {"guided_json": json.dumps(SCHEMA)},
}


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("form", FORMS)
async def test_json_follows_its_schema(door: Door, path: str, form: str) -> None:
    [choice] = (await answer(door, path, **FORMS[form], seed=1, max_tokens=200))["choices"]
    value = json.loads(choice["message"]["content"] if path == CHAT else choice["text"])
    assert value.keys() == {"animal", "quick"}
    assert choice["finish_reason"] == "stop"


async def test_the_openai_package_parses_what_it_asked_for(door: Door) -> None:
    reply = await door.client.chat.completions.create(
        model="tiny",
        messages=USER,
        seed=1,
        max_tokens=200,
        response_format={"type": "json_schema", "json_schema": {"name": "animal", "schema": SCHEMA}},
    )
    assert json.loads(reply.choices[0].message.content or "")["animal"] in ("fox", "dog")


async def test_outputs_have_the_other_forms(door: Door) -> None:
    assert re.fullmatch("[a-f]{3}", texts(await answer(door, guided_regex="[a-f]{3}"))[0])
    for given in ({"guided_choice": ["owl", "fox"]}, {"structured_outputs": {"choice": ["owl", "fox"]}}):
        assert texts(await answer(door, **given))[0] in ("owl", "fox")
    assert texts(await answer(door, guided_grammar='start: "fo" "x"')) == ["fox"]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"guided_json": "{"}, "guided_json"),
        ({"structured_outputs": {"json": {"type": "poem"}}}, "structured_outputs.json"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"guided_grammar": "start: x"}, "guided_grammar"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "poem"}}}},
            "response_format.json_schema.schema",
        ),
    ],
)
async def test_a_form_that_is_none_is_refused(door: Door, given: dict[str, Any], param: str) -> None:
    response = await door.post(TEXT, {"prompt": "Hello", **given})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


# Which tokens, and ends.


async def test_a_bias_forbids_a_token_or_brings_it(door: Door) -> None:
    given = {**GREEDY, "return_token_ids": True}
    ids = (await answer(door, **given))["choices"][0]["token_ids"]
    without = await answer(door, **given, logit_bias={str(ids[0]): -100})
    assert ids[0] not in without["choices"][0]["token_ids"]
    always = await answer(door, **given, logit_bias={"7": 100})
    assert set(always["choices"][0]["token_ids"]) == {7}
    allowed = await answer(door, **given, allowed_token_ids=[40, 41])
    assert set(allowed["choices"][0]["token_ids"]) <= {40, 41}


async def test_a_stop_string_may_be_part_of_the_text(door: Door) -> None:
    [whole] = texts(await answer(door, **GREEDY))
    stop = whole[3:6]
    end = whole.index(stop)
    assert texts(await answer(door, **GREEDY, stop=stop)) == [whole[:end]]
    included = await answer(door, **GREEDY, stop=[stop], include_stop_str_in_output=True)
    assert texts(included) == [whole[: end + len(stop)]]


async def test_an_output_that_repeats_itself_ends(door: Door) -> None:
    detection = {"max_pattern_size": 2, "min_count": 4}
    for path in (CHAT, TEXT):
        body = await answer(door, path, **GREEDY, logit_bias={"7": 100}, repetition_detection=detection)
        assert body["choices"][0]["finish_reason"] == "repetition"
        assert body["usage"]["completion_tokens"] == 4


# What is told.


@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_prompt_logprobs_have_an_entry_for_each_token(door: Door, path: str) -> None:
    asked = {"prompt": PROMPT} if path == TEXT else {"messages": USER}
    tokens = (await door.post("/tokenize", asked)).json()["tokens"]
    body = await answer(door, path, prompt_logprobs=2, n=2)
    told = (
        [body["prompt_logprobs"]] if path == CHAT else [each["prompt_logprobs"] for each in body["choices"]]
    )
    for entries in told:
        assert entries[0] is None
        assert len(entries) == len(tokens)
        for token, entry in zip(tokens[1:], entries[1:], strict=True):
            assert 2 <= len(entry) <= 3
            assert entry[str(token)]["logprob"] <= 0
            assert [each["rank"] for each in entry.values() if each["rank"]] == [1, 2]


@pytest.mark.parametrize("n", [1, 3])
async def test_an_echo_has_the_prompts_logprobs_before_its_own(door: Door, n: int) -> None:
    plain = await answer(door, **GREEDY, logprobs=1, n=n)
    echoed = await answer(door, **GREEDY, logprobs=1, n=n, echo=True)
    tokens = (await door.post("/tokenize", {"prompt": PROMPT})).json()["tokens"]
    assert texts(echoed) == [PROMPT + text for text in texts(plain)]
    for before, after in zip(plain["choices"], echoed["choices"], strict=True):
        own, told = before["logprobs"], after["logprobs"]
        assert told["tokens"][len(tokens) :] == own["tokens"]
        assert "".join(told["tokens"][: len(tokens)]) == PROMPT
        assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
        assert None not in told["token_logprobs"][1:]
        assert told["text_offset"][len(tokens)] == len(PROMPT)
        assert {len(each) for each in told.values()} == {len(tokens) + 12}


async def test_token_ids_are_echoed_too_and_in_streams(door: Door) -> None:
    tokens = (await door.post("/tokenize", {"prompt": PROMPT})).json()["tokens"]
    given = {**GREEDY, "prompt": [tokens, tokens[:3]], "logprobs": 0, "echo": True}
    whole = await answer(door, **given)
    told = await events(door, **given)
    assert joined(told) == texts(whole)
    for choice in whole["choices"]:
        streamed = [
            token
            for event in told
            for each in event["choices"]
            if each["index"] == choice["index"] and each["logprobs"]
            for token in each["logprobs"]["tokens"]
        ]
        assert streamed == choice["logprobs"]["tokens"]


# Thinking.


async def test_reasoning_stands_beside_the_answer(opening: Opening, thinking_model: Path) -> None:
    door = await opening(model=thinking_model)
    given = {**GREEDY, "prompt": "Why? <think>", "thinking_token_budget": 4}
    [choice] = (await answer(door, **given))["choices"]
    assert choice["reasoning"] == choice["reasoning_content"] != ""
    assert choice["text"]
    told = await events(door, **given)
    assert joined(told) == [choice["text"]]
    assert "".join(each["choices"][0].get("reasoning", "") for each in told) == choice["reasoning"]
    [without] = (await answer(door, **given, include_reasoning=False))["choices"]
    assert "reasoning" not in without
    assert without["text"] == choice["text"]


async def test_a_model_without_tags_has_no_budget(door: Door) -> None:
    for name in ("thinking_token_budget", "thinking_budget"):
        response = await door.post(CHAT, {"messages": USER, name: 4})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == name


async def test_a_reply_with_reasoning_can_be_sent_back(door: Door) -> None:
    reply = {"role": "assistant", "content": "42", "reasoning": "Hm", "reasoning_content": "Hm"}
    await answer(door, CHAT, messages=[*USER, reply, *USER])


# What does not go together.

SAID: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {name: value}) for name, value in NOT_DEFAULT.items()},
    "early_stopping": ("early_stopping", {"early_stopping": True}),
    "include_stop": ("include_stop_str_in_output", {"include_stop_str_in_output": True}),
    "repetition_pattern": (
        "repetition_detection.max_pattern_size",
        {"repetition_detection": {"max_pattern_size": 2, "min_count": 3}},
    ),
    "repetition_count": ("repetition_detection.min_count", {"repetition_detection": {"min_count": 3}}),
    "thinking_budget": ("thinking_token_budget", {"thinking_token_budget": 4}),
    "json_schema": ("guided_json", {"guided_json": {}}),
    "json_object": ("response_format.type", {"response_format": {"type": "json_object"}}),
    "regex": ("guided_regex", {"guided_regex": "a"}),
    "choice": ("guided_choice", {"guided_choice": ["a"]}),
    "grammar": ("guided_grammar", {"guided_grammar": 'start: "a"'}),
}
"""By the engine's name: what the parameter is called, and how it is set."""


async def refused_parameters(door: Door, *names: str) -> tuple[str, str]:
    """The parameter that an answer is about, and what it says."""
    body: dict[str, Any] = {"prompt": "Hello"}
    for name in names:
        body |= SAID[name][1]
    response = await door.post(TEXT, body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error["param"], error["message"]


@pytest.mark.parametrize("clash", CLASHES, ids=lambda clash: f"{clash.field}, {clash.other}")
async def test_what_makes_no_sense_together_is_refused_by_name(door: Door, clash: Any) -> None:
    param, message = await refused_parameters(door, clash.field, clash.other)
    named = {SAID[name][0] for name in (clash.field, clash.other)}
    assert param in named
    assert clash.why in message


@pytest.mark.parametrize("need", NEEDS, ids=lambda need: f"{need.field}, {need.other}")
async def test_what_makes_no_sense_alone_is_refused_by_name(door: Door, need: Any) -> None:
    param, message = await refused_parameters(door, need.field)
    assert param == SAID[need.field][0]
    assert "must not be set without" in message
