"""Streams on the wire: what they look like, readers who leave, and readers who are slow."""

from __future__ import annotations

import asyncio
import json
import socket

import openai
import pytest

from octavo.engine import EngineStopped
from octavo.engine.stream import Stream
from tests.service.openai.conftest import GREEDY, USER, Door, Opening

ENDLESS = {"temperature": 0, "ignore_eos": True, "stream": True, "messages": USER, "max_tokens": 32000}


async def raw_stream(
    door: Door, body: dict[str, object]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request on a bare connection that takes few bytes unread."""
    host, _, port = str(door.world.server.http_url).removeprefix("http://").rpartition(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((host, int(port)))
    reader, writer = await asyncio.open_connection(sock=connection, limit=1024)
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
    return reader, writer


async def test_a_stream_is_events_that_end_with_done(door: Door) -> None:
    body = {"messages": USER, "stream": True, "max_tokens": 4, "temperature": 0}
    response = await door.post("/v1/chat/completions", body)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    for event in events:
        assert event.startswith("data: {")
        assert json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk"


async def test_sampled_text_is_the_same_whole_and_in_pieces(door: Door) -> None:
    """A random model says bytes that are no characters, and characters in several tokens."""
    for seed in range(3):
        arguments = {"model": "tiny", "prompt": "é", "seed": seed, "max_tokens": 30, "temperature": 1.5}
        whole = await door.client.completions.create(**arguments)
        stream = await door.client.completions.create(stream=True, **arguments)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == whole.choices[0].text


async def test_a_reader_who_leaves_a_stream_frees_its_blocks(door: Door) -> None:
    stream = await door.client.chat.completions.create(
        model="tiny", messages=USER, stream=True, max_tokens=4000, extra_body={"ignore_eos": True}
    )
    await anext(aiter(stream))
    await stream.close()
    await door.world.until_idle()


async def test_who_leaves_before_the_answer_frees_its_blocks(door: Door) -> None:
    waiting = asyncio.create_task(
        door.client.chat.completions.create(
            model="tiny", messages=USER, max_tokens=4000, extra_body={"ignore_eos": True}
        )
    )
    await door.world.until_running()
    waiting.cancel()
    await door.world.until_idle()


async def test_who_leaves_several_prompts_frees_the_blocks_of_all(door: Door) -> None:
    stream = await door.client.completions.create(
        model="tiny",
        prompt=["a", "b", "c"],
        stream=True,
        max_tokens=4000,
        extra_body={"ignore_eos": True},
    )
    await anext(aiter(stream))
    await door.world.until(lambda load: load.running == 3)
    await stream.close()
    await door.world.until_idle()


async def test_a_slow_reader_pauses_its_own_sequence_and_no_other(opening: Opening) -> None:
    door = await opening(context=16384, stream_buffer=8, served_name="tiny")
    body = {**ENDLESS, "max_tokens": 16000, "logprobs": True, "top_logprobs": 20}
    reader, writer = await raw_stream(door, body)
    await reader.readline()

    async def stands_still() -> bool:
        before = door.world.engine.load().total_output_tokens
        await asyncio.sleep(0.5)
        return door.world.engine.load().total_output_tokens == before

    async with asyncio.timeout(60):
        while not await stands_still():
            pass
    assert door.world.engine.load().running == 1
    answer = await door.client.chat.completions.create(model="tiny", messages=USER, **GREEDY)
    assert answer.choices[0].message.content
    writer.close()
    await door.world.until_idle()


async def test_what_fails_once_the_stream_runs_is_its_last_event(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await door.client.chat.completions.create(
        model="tiny", messages=USER, stream=True, max_tokens=4000, extra_body={"ignore_eos": True}
    )
    chunks = aiter(stream)
    await anext(chunks)

    async def fail(_: Stream) -> None:
        raise EngineStopped("the engine has failed: out of luck")

    monkeypatch.setattr(Stream, "__anext__", fail)
    with pytest.raises(openai.APIError, match="out of luck"):
        async for _ in chunks:
            pass


async def test_what_fails_before_has_a_status_of_its_own(door: Door) -> None:
    with pytest.raises(openai.BadRequestError):
        await door.client.chat.completions.create(
            model="tiny", messages=USER, stream=True, temperature=-1, max_tokens=3
        )
