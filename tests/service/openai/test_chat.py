"""Chats through the `openai` package."""

from __future__ import annotations

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
    assert answer.usage
    assert answer.usage.completion_tokens == 8


async def test_a_stream_is_the_same_answer_in_pieces(door: Door) -> None:
    whole = await door.client.chat.completions.create(model="tiny", messages=USER, **GREEDY)
    stream = await door.client.chat.completions.create(
        model="tiny", messages=USER, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert (
        "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        == whole.choices[0].message.content
    )
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 8
    assert all(chunk.usage is None for chunk in chunks[:-1])
