"""POST /v1/chat/completions, through the `openai` package."""

from __future__ import annotations

import pytest

from octavo.v1 import inference_pb2 as pb
from tests.service.conftest import chat, collect
from tests.service.openai.conftest import GREEDY, USER, Door


async def test_a_chat_is_answered(door: Door) -> None:
    answer = await door.client.chat.completions.create(model="tiny", messages=USER, **GREEDY)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "tiny"
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "length"
    assert choice.logprobs is None
    assert answer.usage
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


async def test_it_is_what_grpc_answers(door: Door) -> None:
    sampling = pb.SamplingParams(seed=7, temperature=0.8, max_tokens=30, top_p=0.9, frequency_penalty=0.5)
    request = pb.GenerateRequest(prompt=chat("Hello"), sampling=sampling)
    by_grpc = await collect(door.world.inference.Generate(request))
    by_http = await door.client.chat.completions.create(
        model="tiny",
        messages=USER,
        seed=7,
        temperature=0.8,
        max_completion_tokens=30,
        top_p=0.9,
        frequency_penalty=0.5,
        extra_body={"return_token_ids": True},
    )
    [choice] = by_http.choices
    assert choice.message.content == by_grpc.text
    assert choice.model_extra == {"token_ids": by_grpc.token_ids}
    assert by_http.usage
    assert by_http.usage.prompt_tokens == by_grpc.usage.prompt_tokens


async def test_a_stream_is_the_same_answer_in_pieces(door: Door) -> None:
    whole = await door.client.chat.completions.create(model="tiny", messages=USER, **GREEDY)
    stream = await door.client.chat.completions.create(
        model="tiny", messages=USER, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    chunks = [chunk async for chunk in stream]
    first, *_, last, with_usage = chunks
    assert first.object == "chat.completion.chunk"
    assert first.choices[0].delta.role == "assistant"
    told = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert "".join(told) == whole.choices[0].message.content
    assert last.choices[0].finish_reason == "length"
    assert with_usage.choices == []
    assert with_usage.usage
    assert with_usage.usage.completion_tokens == 8
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


async def test_usage_can_come_with_every_event(door: Door) -> None:
    stream = await door.client.chat.completions.create(
        model="tiny",
        messages=USER,
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},  # type: ignore[typeddict-unknown-key]
        **GREEDY,
    )
    counts = [chunk.usage.completion_tokens async for chunk in stream if chunk.usage]
    assert counts == sorted(counts)
    assert counts[-1] == 8
    assert len(counts) > 2


async def test_without_being_asked_for_a_stream_tells_no_usage(door: Door) -> None:
    stream = await door.client.chat.completions.create(model="tiny", messages=USER, stream=True, **GREEDY)
    chunks = [chunk async for chunk in stream]
    assert all(chunk.usage is None for chunk in chunks)
    assert all(chunk.choices for chunk in chunks)


async def test_what_the_cache_had_is_told(door: Door) -> None:
    messages = [{"role": "user", "content": "Pages of keys and values are shared. " * 5}]
    for _ in range(2):
        answer = await door.client.chat.completions.create(model="tiny", messages=messages, **GREEDY)
    assert answer.usage
    assert answer.usage.prompt_tokens_details
    assert (answer.usage.prompt_tokens_details.cached_tokens or 0) >= 16


async def test_logprobs_have_tokens_bytes_and_alternatives(door: Door) -> None:
    answer = await door.client.chat.completions.create(
        model="tiny", messages=USER, logprobs=True, top_logprobs=3, **GREEDY
    )
    [choice] = answer.choices
    assert choice.logprobs
    tokens = choice.logprobs.content
    assert tokens is not None
    assert len(tokens) == 8
    said = b"".join(bytes(token.bytes or ()) for token in tokens).decode("utf-8", "replace")
    assert said == choice.message.content
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token  # greedy: the likeliest was chosen
        assert token.logprob <= 0


async def test_logprobs_in_a_stream_are_the_same(door: Door) -> None:
    arguments = {"model": "tiny", "messages": USER, "logprobs": True, "top_logprobs": 2, **GREEDY}
    whole = await door.client.chat.completions.create(**arguments)
    stream = await door.client.chat.completions.create(stream=True, **arguments)
    told = [
        token
        async for chunk in stream
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content or ()
    ]
    assert whole.choices[0].logprobs
    expected = whole.choices[0].logprobs.content or []
    assert [token.bytes for token in told] == [token.bytes for token in expected]
    assert [[top.token for top in token.top_logprobs] for token in told] == [
        [top.token for top in token.top_logprobs] for token in expected
    ]
    # The second request finds its prompt in the cache, which rounds differently.
    values = [token.logprob for token in expected]
    assert [token.logprob for token in told] == pytest.approx(values, rel=1e-4)


async def test_without_top_logprobs_there_are_no_alternatives(door: Door) -> None:
    answer = await door.client.chat.completions.create(model="tiny", messages=USER, logprobs=True, **GREEDY)
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert logprobs.content
    assert all(token.top_logprobs == [] for token in logprobs.content)


async def test_text_parts_are_joined_by_a_new_line(door: Door) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    for content in (parts, "one\ntwo"):
        body = {"model": "tiny", "messages": [{"role": "user", "content": content}]}
        tokens = (await door.post("/tokenize", body)).json()["tokens"]
        if content is parts:
            of_parts = tokens
    assert tokens == of_parts


async def test_a_reply_can_be_sent_back_as_it_came(door: Door) -> None:
    answer = await door.client.chat.completions.create(model="tiny", messages=USER, **GREEDY)
    reply = answer.choices[0].message
    messages = [*USER, reply, {"role": "user", "content": "And?"}]
    again = await door.client.chat.completions.create(model="tiny", messages=messages, **GREEDY)
    assert again.choices[0].message.content
    messages[1] = reply.model_dump()
    assert (await door.client.chat.completions.create(model="tiny", messages=messages, **GREEDY)).choices


async def test_the_model_may_be_left_out(door: Door) -> None:
    response = await door.post("/v1/chat/completions", {"messages": USER, "max_tokens": 1})
    assert response.status_code == 200
    assert response.json()["model"] == "tiny"


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63 - 1, 0])
async def test_every_signed_seed_repeats_itself(door: Door, seed: int) -> None:
    answers = [
        await door.client.chat.completions.create(model="tiny", messages=USER, max_tokens=12, seed=seed)
        for _ in range(2)
    ]
    assert answers[0].choices[0].message == answers[1].choices[0].message


async def test_roles_that_the_engine_knows_are_taken(door: Door) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Two and two?"},
        {"role": "assistant", "content": None},
        {"role": "tool", "content": "4", "tool_call_id": "sum"},
    ]
    response = await door.post("/v1/chat/completions", {"messages": messages, "max_tokens": 1})
    assert response.status_code == 200, response.text
