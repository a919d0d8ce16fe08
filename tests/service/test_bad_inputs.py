"""Bad input: the right status, the field, the value and the rule; and the server goes on."""

from __future__ import annotations

import math
from typing import Any

import grpc
import pytest

from octavo.v1 import inference_pb2 as pb
from tests.service.conftest import GREEDY, Serving, World, as_prompt, chat, collect, refused


def message(role: str, content: str = "Hello") -> pb.ChatMessage:
    return pb.ChatMessage(role=role, content=content)


def of_chat(*messages: pb.ChatMessage) -> pb.Prompt:
    return pb.Prompt(chat=pb.Chat(messages=messages))


def ids(*token_ids: int) -> pb.Prompt:
    return pb.Prompt(token_ids=pb.TokenIds(ids=token_ids))


PROMPTS = {
    "nothing": (pb.Prompt(), "prompt", "is required"),
    "empty text": (pb.Prompt(text=""), "prompt.text", "must not be empty"),
    "no messages": (of_chat(), "prompt.chat.messages", "must not be empty"),
    "no token ids": (ids(), "prompt.token_ids.ids", "must not be empty"),
    "longer than the context": (ids(*[5] * 33000), "prompt", "(got '33000 tokens')"),
    "outside the vocabulary": (ids(5, 384), "prompt.token_ids.ids[1]", "less than 384 (got 384)"),
    "unknown role": (of_chat(message("pirate")), "prompt.chat.messages[0].role", "(got 'pirate')"),
    "system in the middle": (
        of_chat(message("user"), message("system")),
        "prompt.chat.messages[1].role",
        "(got 'system')",
    ),
    "no question at the end": (
        of_chat(message("user"), message("assistant")),
        "prompt.chat.messages[1].role",
        "(got 'assistant')",
    ),
    "empty message": (of_chat(message("user", "")), "prompt.chat.messages[0].content", "(got '')"),
}

SAMPLING = {
    "negative temperature": ({"temperature": -0.5}, "temperature", "not negative (got -0.5)"),
    "temperature NaN": (
        {"temperature": math.nan},
        "temperature",
        "must be finite and not negative (got nan)",
    ),
    "temperature infinite": ({"temperature": math.inf}, "temperature", "(got inf)"),
    "top_p zero": ({"top_p": 0.0}, "top_p", "must be in (0, 1] (got 0.0)"),
    "top_p over one": ({"top_p": 1.1}, "top_p", "must be in (0, 1] (got 1.1)"),
    "top_p NaN": ({"top_p": math.nan}, "top_p", "must be in (0, 1] (got nan)"),
    "top_k negative": ({"top_k": -1}, "top_k", "(got -1)"),
    "max_tokens zero": ({"max_tokens": 0}, "max_tokens", "must be at least 1 (got 0)"),
    "min over max": ({"max_tokens": 1, "min_tokens": 2}, "min_tokens", "must not exceed max_tokens"),
    "too many stops": ({"stop": ["x"] * 17}, "stop", "must have at most 16 entries"),
    "stop too long": ({"stop": ["x" * 257]}, "stop", "at most 256 characters"),
    "empty stop": ({"stop": [""]}, "stop", "must not contain an empty string"),
    "unknown stop token": ({"stop_token_ids": [384]}, "stop_token_ids", "must be in [0, 384)"),
    "too many logprobs": ({"logprobs": 21}, "logprobs", "must be in [0, 20] (got 21)"),
    "penalty": ({"repetition_penalty": 0.0}, "repetition_penalty", "must be finite and positive"),
}


@pytest.mark.parametrize("case", PROMPTS)
async def test_prompts(world: World, case: str) -> None:
    prompt, field, rule = PROMPTS[case]
    refusal = await refused(world.inference.Generate(pb.GenerateRequest(prompt=prompt)))
    assert refusal.code == "INVALID_ARGUMENT"
    assert refusal.violations[0][0] == field
    assert rule in refusal.violations[0][1]
    await still_serves(world)


@pytest.mark.parametrize("case", SAMPLING)
async def test_sampling(world: World, case: str) -> None:
    values, field, rule = SAMPLING[case]
    sampling = pb.SamplingParams(**values)
    request = pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=sampling)
    refusal = await refused(world.inference.Generate(request))
    assert refusal.code == "INVALID_ARGUMENT"
    assert refusal.violations[0][0] == f"sampling.{field}"
    assert rule in refusal.violations[0][1]
    await still_serves(world)


async def test_every_broken_rule_is_told_at_once(world: World) -> None:
    sampling = pb.SamplingParams(temperature=-1, top_p=2, logprobs=100)
    refusal = await refused(
        world.inference.Generate(pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=sampling))
    )
    assert [field for field, _ in refusal.violations] == [
        "sampling.temperature",
        "sampling.top_p",
        "sampling.logprobs",
    ]


@pytest.mark.parametrize("method", ["Generate", "Tokenize", "Detokenize", "GetModel"])
async def test_an_unknown_model_is_not_found(serving: Serving, method: str) -> None:
    world = await serving(served_name="tiny")
    requests: dict[str, Any] = {
        "Generate": pb.GenerateRequest(model="gpt-9", prompt=as_prompt("Hello")),
        "Tokenize": pb.TokenizeRequest(model="gpt-9", text="Hello"),
        "Detokenize": pb.DetokenizeRequest(model="gpt-9"),
        "GetModel": pb.GetModelRequest(model="gpt-9"),
    }
    refusal = await refused(getattr(world.inference, method)(requests[method]))
    assert refusal.code == "NOT_FOUND"
    assert refusal.violations == [
        ("model", "must be empty or 'tiny', the model that is served here (got 'gpt-9')")
    ]


async def test_a_chat_for_a_model_without_a_template(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.engine.tokenizer, "chat_template", None)
    refusal = await refused(world.inference.Generate(pb.GenerateRequest(prompt=chat("Hello"))))
    assert refusal.code == "INVALID_ARGUMENT"
    assert refusal.violations[0][0] == "prompt.chat.messages"
    assert "has no chat template" in refusal.violations[0][1]


async def test_invalid_utf8_names_its_field(world: World) -> None:
    request = pb.GenerateRequest(prompt=chat("Hello", "Good day", "BROKEN"), sampling=GREEDY)
    refusal = await refused(
        raw_generate(world, request.SerializeToString().replace(b"BROKEN", b"\xc3\x28OKEN"))
    )
    assert refusal.code == "INVALID_ARGUMENT"
    field, rule = refusal.violations[0]
    assert field == "prompt.chat.messages[2].content"
    assert rule.startswith("must be valid UTF-8 (got b'\\xc3(OKEN'")
    await still_serves(world)


async def test_bytes_that_are_no_message(world: World) -> None:
    refusal = await refused(raw_generate(world, b"\x0a\x7f"))
    assert refusal.code == "INVALID_ARGUMENT"
    assert "is no valid protobuf message" in refusal.message


async def test_a_field_of_a_later_protocol_is_refused_not_ignored(world: World) -> None:
    later_field = b"\xf8\x3f\x01"  # number 1023, a varint
    sampling = pb.SamplingParams.FromString(GREEDY.SerializeToString() + later_field)
    request = pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=sampling)
    refusal = await refused(raw_generate(world, request.SerializeToString()))
    assert refusal.code == "INVALID_ARGUMENT"
    field, rule = refusal.violations[0]
    assert field == "sampling"
    assert "field number 1023 of octavo.v1.SamplingParams is not known" in rule


async def test_token_ids_to_detokenize_outside_the_vocabulary(world: World) -> None:
    refusal = await refused(world.inference.Detokenize(pb.DetokenizeRequest(token_ids=[1, 2, 4000])))
    assert refusal.violations == [("token_ids[2]", "must be in the vocabulary, less than 384 (got 4000)")]


async def test_special_tokens_around_a_chat_are_the_templates(world: World) -> None:
    request = pb.TokenizeRequest(chat=chat("Hello").chat, add_special_tokens=True)
    refusal = await refused(world.inference.Tokenize(request))
    assert refusal.violations[0][0] == "add_special_tokens"


async def test_nothing_to_tokenize(world: World) -> None:
    refusal = await refused(world.inference.Tokenize(pb.TokenizeRequest()))
    assert refusal.violations == [("input", "is required: one of text, chat (got None)")]


async def test_a_message_over_the_limit_is_refused_by_grpc(serving: Serving) -> None:
    world = await serving(max_message_size=2048)
    call = world.inference.Tokenize(pb.TokenizeRequest(text="x" * 4096))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_unexpected_error_is_internal_and_keeps_its_text(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret")

    with monkeypatch.context() as patch:
        patch.setattr(world.engine, "submit", broken)
        refusal = await refused(world.inference.Generate(pb.GenerateRequest(prompt=as_prompt("Hello"))))
    assert (refusal.code, "secret" in refusal.message) == ("INTERNAL", False)
    await still_serves(world)


def raw_generate(world: World, request: bytes) -> Any:
    method = world.channel.unary_stream(
        "/octavo.v1.Inference/Generate", response_deserializer=pb.GenerateResponse.FromString
    )
    return method(request)


async def still_serves(world: World) -> None:
    request = pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=GREEDY)
    assert (await collect(world.inference.Generate(request))).usage.output_tokens == 8
