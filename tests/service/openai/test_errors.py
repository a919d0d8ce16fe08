"""Errors as the `openai` package raises them, and as they are on the wire."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import openai
import pytest

from octavo.engine.engine import Engine
from tests.service.conftest import ONE_SEAT
from tests.service.openai.conftest import USER, Door, Opening

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def told(response: Any) -> dict[str, Any]:
    """The error of a response, which has OpenAI's shape."""
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    return dict(error)


@pytest.mark.parametrize(
    ("path", "change", "param", "message"),
    [
        (CHAT, {"temperature": -1}, "temperature", r"must be finite and not negative \(got -1"),
        (CHAT, {"temperature": "hot"}, "temperature", r"must be a number \(got 'hot'\)"),
        (CHAT, {"top_p": 0}, "top_p", r"must be in \(0, 1\]"),
        (CHAT, {"top_k": -2}, "top_k", "must not be negative"),
        (CHAT, {"min_p": 2}, "min_p", r"must be in \[0, 1\]"),
        (CHAT, {"seed": 2**64}, "seed", "less than"),
        (CHAT, {"seed": 1.5}, "seed", "must be an integer"),
        (CHAT, {"max_tokens": 0}, "max_tokens", "at least 1"),
        (CHAT, {"max_completion_tokens": 0}, "max_completion_tokens", "at least 1"),
        (CHAT, {"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "or be max_completion_tokens"),
        (CHAT, {"max_tokens": 10**12}, "max_tokens", "less than"),
        (CHAT, {"max_tokens": 3, "min_tokens": 4}, "min_tokens", "must not exceed max_tokens, 3"),
        (CHAT, {"frequency_penalty": 3}, "frequency_penalty", r"must be in \[-2, 2\]"),
        (CHAT, {"repetition_penalty": 0}, "repetition_penalty", "positive"),
        (CHAT, {"stop": [""]}, "stop", "must not contain an empty string"),
        (CHAT, {"stop": [1]}, "stop", "must be a string or a list of strings"),
        (CHAT, {"stop": ["x"] * 17}, "stop", "at most 16"),
        (CHAT, {"stop_token_ids": [999]}, "stop_token_ids", r"in \[0, 384\)"),
        (CHAT, {"stop_token_ids": [1, -1]}, "stop_token_ids[1]", "greater than or equal to 0"),
        (CHAT, {"top_logprobs": 2}, "top_logprobs", "unless logprobs is true"),
        (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        (CHAT, {"logprobs": 2}, "logprobs", "must be true or false"),
        (CHAT, {"stream_options": {}}, "stream_options", "unless stream is true"),
        (CHAT, {"stream": 1}, "stream", "must be true or false"),
        (CHAT, {"n": 0}, "n", r"must be in \[1, 128\] \(got 0\)"),
        (CHAT, {"n": True}, "n", "must be an integer"),
        (CHAT, {"n": 3, "best_of": 2}, "best_of", r"must be in \[n, 128\]"),
        (CHAT, {"beam_width": 33}, "beam_width", r"must be in \[0, 32\]"),
        (CHAT, {"n": 33, "use_beam_search": True}, "n", r"must be in \[0, 32\]"),
        (CHAT, {"best_of": 33, "use_beam_search": True}, "best_of", r"must be in \[0, 32\]"),
        (
            CHAT,
            {"beam_width": 2, "use_beam_search": False},
            "beam_width",
            "or go with use_beam_search, false",
        ),
        (CHAT, {"early_stopping": "maybe"}, "early_stopping", 'must be true, false or "never"'),
        (CHAT, {"tools": [{"type": "function"}]}, "tools", "not supported yet"),
        (CHAT, {"response_format": {"type": "poem"}}, "response_format.type", "'text', 'json_object' or"),
        (CHAT, {"response_format": {"type": "json_schema"}}, "response_format.json_schema", "is required"),
        (
            CHAT,
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "is required",
        ),
        (
            CHAT,
            {"structured_outputs": {"structural_tag": "x"}},
            "structured_outputs.structural_tag",
            "not suppor",
        ),
        (CHAT, {"guided_json": 5}, "guided_json", "must be a JSON Schema: an object, or its text"),
        (CHAT, {"guided_choice": []}, "guided_choice", "must not be empty"),
        (CHAT, {"logit_bias": {"one": 5}}, "logit_bias.one", "must be for a token id"),
        (CHAT, {"logit_bias": {"1": "5"}}, "logit_bias.1", "must be a number"),
        (CHAT, {"logit_bias": {"1": 101}}, "logit_bias", r"each must be in \[-100, 100\]"),
        (CHAT, {"logit_bias": {"384": 1}}, "logit_bias", r"each token must be in \[0, 384\)"),
        (CHAT, {"allowed_token_ids": [384]}, "allowed_token_ids", r"each token must be in \[0, 384\)"),
        (CHAT, {"bad_words": [""]}, "bad_words", "must not contain an empty string"),
        (
            CHAT,
            {"repetition_detection": {"max_pattern_size": 129, "min_count": 2}},
            "repetition_detection.max_pattern_size",
            r"must be in \[0, 128\]",
        ),
        (
            CHAT,
            {"repetition_detection": {"max_pattern_size": 4, "min_count": 1}},
            "repetition_detection.min_count",
            "must be at least 2",
        ),
        (
            CHAT,
            {"repetition_detection": {"max_pattern_size": 4, "min_count": 2, "min_pattern_size": 2}},
            "repetition_detection.min_pattern_size",
            "not supported yet; leave it out, or give 0 or 1",
        ),
        (CHAT, {"thinking_token_budget": -2}, "thinking_token_budget", "must not be negative"),
        (CHAT, {"thinking_budget": -2}, "thinking_budget", "must not be negative"),
        (
            CHAT,
            {"thinking_budget": 1, "thinking_token_budget": 2},
            "thinking_budget",
            "or be thinking_token_bu",
        ),
        (CHAT, {"prompt_logprobs": 21}, "prompt_logprobs", r"must be in \[0, 20\]"),
        (CHAT, {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", "must be left out of a stream"),
        (CHAT, {"echo": True}, "echo", "not supported yet"),
        (CHAT, {"store": True}, "store", "not supported yet"),
        (CHAT, {"audio": {"voice": "alloy"}}, "audio", "not supported yet"),
        (CHAT, {"tpo_k": 3}, "tpo_k", "is no parameter of this request; did you mean top_k?"),
        (CHAT, {"metadata": {"a": 1}}, "metadata.a", "must be a string"),
        (CHAT, {"messages": []}, "messages", "must not be empty"),
        (CHAT, {"messages": "Hello"}, "messages", "must be a list"),
        (CHAT, {"messages": [{"content": "x"}]}, "messages[0].role", "is required"),
        (CHAT, {"messages": [{"role": "owl", "content": "x"}]}, "messages[0].role", "must be one of system"),
        (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content", "must not be empty"),
        (CHAT, {"messages": [*USER, {"role": "assistant", "content": "x"}]}, "messages[1].role", "reply"),
        (CHAT, {"messages": [{**USER[0], "name": "Ann"}]}, "messages[0].name", "not supported yet"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
            "other parts are not supported yet",
        ),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 40000}]}, "messages", "the context of 32768"),
        (TEXT, {"prompt": None}, "prompt", "must be a string, a list"),
        (TEXT, {"prompt": ""}, "prompt", "must not be empty"),
        (TEXT, {"prompt": []}, "prompt", "must not be empty"),
        (TEXT, {"prompt": ["x", ""]}, "prompt[1]", "must not be empty"),
        (TEXT, {"prompt": ["x", [1]]}, "prompt", "must be a string, a list"),
        (TEXT, {"prompt": [1, 384]}, "prompt[1]", "in the vocabulary"),
        (TEXT, {"prompt": [[1], [1, 384]]}, "prompt[1][1]", "in the vocabulary"),
        (TEXT, {"prompt": [[1], []]}, "prompt[1]", "must not be empty"),
        (TEXT, {"prompt": ["x"] * 257}, "prompt", "at most 256"),
        (TEXT, {"logprobs": 21}, "logprobs", r"must be in \[0, 20\]"),
        (TEXT, {"logprobs": 21, "echo": True}, "logprobs", r"^logprobs: must be in \[0, 20\] \(got 21\)$"),
        (TEXT, {"logprobs": 2, "echo": True, "prompt_logprobs": 1}, "prompt_logprobs", "or be logprobs, 2"),
        (TEXT, {"suffix": "end"}, "suffix", "not supported yet"),
        (TEXT, {"messages": USER}, "messages", "is no parameter of this request"),
    ],
)
async def test_a_bad_field_is_named_with_its_value_and_the_rule(
    door: Door, path: str, change: dict[str, Any], param: str, message: str
) -> None:
    body = ({"messages": USER} if path == CHAT else {"prompt": "Hello"}) | change
    response = await door.post(path, body)
    assert response.status_code == 400, response.text
    error = told(response)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert re.search(message, error["message"]), error["message"]
    assert error["message"].startswith(f"{param}: ")


async def test_the_openai_package_raises_what_it_is_told(door: Door) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        await door.client.chat.completions.create(model="tiny", messages=USER, temperature=-1)
    assert bad.value.param == "temperature"
    assert bad.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError) as unknown:
        await door.client.chat.completions.create(model="gpt-9", messages=USER)
    assert unknown.value.code == "model_not_found"
    assert unknown.value.param == "model"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "must be valid JSON: EOF"),
        (b"{", "must be valid JSON"),
        (b"[]", "must be an object"),
        (b"null", "must be an object"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "must be valid JSON"),
        (b'{"messages": "\xff"}', "must be valid JSON"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "recursion limit"),
        (b'{"messages": ' + b"[" * 100_000, "recursion limit"),
    ],
    ids=["empty", "cut off", "list", "null", "surrogate", "not UTF-8", "deep", "deeper"],
)
async def test_a_body_that_is_no_json_object_is_refused(door: Door, body: bytes, message: str) -> None:
    response = await door.post(CHAT, body)
    assert response.status_code == 400
    assert message in told(response)["message"]
    assert told(response)["param"] is None


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_a_number_must_be_one(door: Door, value: str) -> None:
    body = f'{{"messages": {json.dumps(USER)}, "temperature": {value}}}'.encode()
    response = await door.post(CHAT, body)
    assert response.status_code == 400
    assert told(response)["param"] == "temperature"


async def test_a_body_full_of_mistakes_is_refused_at_once(door: Door) -> None:
    keys = {f"key{i}": 0 for i in range(200_000)}
    many = ({"n": keys}, {"logit_bias": keys}, {"guided_choice": [0] * 500_000}, {"response_format": keys})
    for body in (
        keys,
        {"messages": [keys]},
        {"messages": [0] * 500_000},
        *({"messages": USER, **each} for each in many),
    ):
        async with asyncio.timeout(3):
            response = await door.post(CHAT, body)
        assert response.status_code == 400
        assert len(response.content) < 2000


async def test_a_large_body_is_refused_unread(opening: Opening) -> None:
    door = await opening(max_message_size=5000)
    body = {"messages": [{"role": "user", "content": "x" * 5000}]}
    response = await door.post(CHAT, body)
    assert response.status_code == 413
    assert told(response)["message"] == "the body must not be larger than 5000 bytes"

    async def pieces() -> Any:
        for _ in range(20):
            yield b" " * 1000

    response = await door.http.post(CHAT, content=pieces(), headers={"content-type": "application/json"})
    assert response.status_code == 413


async def test_only_json_is_taken(door: Door) -> None:
    response = await door.post(CHAT, {"messages": USER}, content_type="text/plain")
    assert response.status_code == 415
    assert told(response)["message"] == "header content-type: must be application/json (got 'text/plain')"
    response = await door.post(CHAT, b"x", content_encoding="gzip")
    assert response.status_code == 415
    assert "content-encoding" in told(response)["message"]


async def test_json_may_say_its_charset(door: Door) -> None:
    body = {"messages": USER, "max_tokens": 1}
    response = await door.post(CHAT, body, content_type="Application/JSON; charset=utf-8")
    assert response.status_code == 200


async def test_what_is_not_there_is_told_in_the_same_shape(door: Door) -> None:
    response = await door.http.get("/v1/embeddings")
    assert response.status_code == 404
    assert told(response)["message"] == "there is nothing at /v1/embeddings"
    response = await door.http.get(CHAT)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert told(response)["message"] == f"GET is not a method of {CHAT}, but POST"
    assert (await door.http.get("/v1/models/")).status_code == 404
    response = await door.http.get("/v1/models/other")
    assert response.status_code == 404
    assert told(response)["code"] == "model_not_found"


async def test_a_full_queue_is_429_with_the_time_to_wait(opening: Opening) -> None:
    door = await opening(max_waiting=1, **ONE_SEAT)
    body = {"messages": USER, "max_tokens": 32000, "ignore_eos": True}
    running = asyncio.create_task(door.post(CHAT, body))
    await door.world.until_running()
    waiting = asyncio.create_task(door.post(CHAT, body))
    await door.world.until(lambda load: load.waiting == 1)
    response = await door.post(CHAT, body)
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert told(response)["type"] == "rate_limit_error"
    with pytest.raises(openai.RateLimitError):
        await door.client.chat.completions.create(model="", messages=USER)
    for task in (running, waiting):
        task.cancel()
    await door.world.until_idle()


async def test_a_server_that_drains_refuses_and_finishes(door: Door) -> None:
    stream = await door.client.chat.completions.create(
        model="tiny", messages=USER, stream=True, max_tokens=300, extra_body={"ignore_eos": True}
    )
    chunks = aiter(stream)
    await anext(chunks)
    draining = asyncio.create_task(door.world.server.drain(20))
    await asyncio.sleep(0)
    assert (await door.http.get("/health")).status_code == 503
    response = await door.post(CHAT, {"messages": USER})
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert told(response)["type"] == "service_unavailable_error"
    with pytest.raises(openai.InternalServerError):
        await door.client.chat.completions.create(model="tiny", messages=USER)
    last = [chunk async for chunk in chunks][-1]
    assert last.choices[0].finish_reason == "length"
    await draining


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_engine_that_fails_is_503(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Engine) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Engine, "step", fail)
    response = await door.post(CHAT, {"messages": USER})
    assert response.status_code == 503
    assert "the engine has failed" in told(response)["message"]


async def test_what_nobody_foresaw_is_500_and_says_nothing(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr(type(door.world.engine), "submit", fail)
    response = await door.post(CHAT, {"messages": USER})
    assert response.status_code == 500
    assert told(response)["type"] == "server_error"
    assert "secret" not in response.text
    assert f"unexpected error in POST {CHAT}" in caplog.text
