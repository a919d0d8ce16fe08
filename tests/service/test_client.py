"""The Python client of the protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from octavo.engine import EngineStopped
from octavo.service.client import Client
from octavo.service.failures import ServerError
from octavo.v1 import inference_pb2 as pb
from tests.service.conftest import ENDLESS, GREEDY, World, chat


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with Client(world.address) as client:
        yield client


async def test_it_tells_the_model_and_the_load(client: Client, world: World) -> None:
    assert (await client.model()).num_blocks == world.engine.model.num_blocks
    assert (await client.load()).total_blocks == world.engine.model.num_blocks


async def test_errors_are_readable_and_name_the_field(client: Client) -> None:
    with pytest.raises(ServerError) as caught:
        async for _ in client.generate(chat("Hello"), pb.SamplingParams(top_p=2)):
            pass
    assert str(caught.value) == "INVALID_ARGUMENT: sampling.top_p: must be in (0, 1] (got 2.0)"
    assert caught.value.violations == (("sampling.top_p", "must be in (0, 1] (got 2.0)"),)


async def test_errors_without_details_are_readable_too(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise EngineStopped("gone fishing")

    monkeypatch.setattr(world.engine, "submit", refuse)
    with pytest.raises(ServerError, match="UNAVAILABLE: gone fishing"):
        await said(client.generate(chat("Hello"), GREEDY))


async def test_a_server_that_is_not_there() -> None:
    async with Client("localhost:1") as client:
        for call in (client.model, client.load):
            with pytest.raises(ServerError, match="UNAVAILABLE"):
                await call()


async def test_a_conversation_computes_only_what_is_new(client: Client) -> None:
    conversation = client.conversation()
    first = await said(conversation.say(chat("Hello").chat, GREEDY))
    second = await said(conversation.say(chat("And then?").chat, GREEDY))
    assert second.cached_prompt_tokens == first.prompt_tokens + first.output_tokens - 1
    await conversation.close()


async def test_a_cancelled_answer_is_as_if_it_had_not_been_asked_for(client: Client, world: World) -> None:
    conversation = client.conversation()
    first = await said(conversation.say(chat("Hello").chat, GREEDY))
    reasons = []
    async for delta in conversation.say(chat("Never mind").chat, ENDLESS):
        reasons.append(delta.finish_reason)
        await conversation.cancel()
    assert reasons[-1] == pb.FINISH_REASON_CANCELLED
    second = await said(conversation.say(chat("And then?").chat, GREEDY))
    assert second.cached_prompt_tokens == first.prompt_tokens + first.output_tokens - 1
    await conversation.restart()
    await world.until_idle()
    await conversation.close()


async def said(deltas: AsyncIterator[pb.Delta]) -> pb.Usage:
    """Reads an answer to its end; its usage."""
    return [delta async for delta in deltas][-1].usage
