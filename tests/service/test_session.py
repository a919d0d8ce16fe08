"""`Session`: many requests on one stream, each with events of its own."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from octavo.v1 import inference_pb2 as pb
from tests.service.conftest import ENDLESS, World, as_prompt, chat, collect


async def test_a_request_is_accepted_and_then_streams_what_generate_streams(world: World) -> None:
    session = world.session()
    await session.submit("a", chat("Hello"))
    accepted = await session.next_event("a")
    assert accepted.accepted.prompt_tokens > 0
    session.events["a"].insert(0, accepted)
    answer = await session.answer("a")
    request = pb.GenerateRequest(
        prompt=chat("Hello"), sampling=pb.SamplingParams(temperature=0, ignore_eos=True, max_tokens=8)
    )
    assert answer.text == (await collect(world.inference.Generate(request))).text


async def test_requests_run_side_by_side(world: World) -> None:
    session = world.session()
    await session.submit("long", "Hello", sampling=ENDLESS)
    await session.submit("short", "Good morning")
    assert (await session.answer("short")).finish_reason == pb.FINISH_REASON_LENGTH
    assert world.engine.load().running == 1
    await session.cancel("long")
    assert (await session.answer("long")).finish_reason == pb.FINISH_REASON_CANCELLED


async def test_a_running_id_is_refused_and_its_request_goes_on(world: World) -> None:
    session = world.session()
    await session.submit("a", "Hello", sampling=pb.SamplingParams(max_tokens=300, ignore_eos=True))
    await session.submit("b", "Hello")
    await session.answer("b")
    await session.submit("a", "Again")
    events = []
    while not events or events[-1].WhichOneof("event") != "rejected":
        events.append(await session.next_event("a"))
    assert events[-1].rejected.code == grpc.StatusCode.ALREADY_EXISTS.value[0]
    session.events["a"] = events[:-1]
    assert (await session.answer("a")).usage.output_tokens == 300


async def test_an_id_can_be_used_again_once_its_request_has_ended(world: World) -> None:
    session = world.session()
    for _ in range(2):
        await session.submit("a", "Hello")
        assert (await session.answer("a")).usage.output_tokens == 8


async def test_cancel_ends_a_request_and_frees_its_blocks(world: World) -> None:
    session = world.session()
    await session.submit("a", "Hello", sampling=ENDLESS)
    await world.until_running()
    await session.cancel("a")
    assert (await session.answer("a")).finish_reason == pb.FINISH_REASON_CANCELLED
    await world.until_idle()


async def test_cancelling_what_does_not_run_is_refused_with_the_id(world: World) -> None:
    session = world.session()
    await session.cancel("nobody")
    refusal = await session.rejection("nobody")
    assert refusal.code == "NOT_FOUND"
    assert refusal.violations[0][0] == "request_id"
    assert "'nobody'" in refusal.violations[0][1]


async def test_a_refused_request_does_not_end_the_session(world: World) -> None:
    session = world.session()
    await session.submit("bad", "Hello", sampling=pb.SamplingParams(top_p=1.5))
    refusal = await session.rejection("bad")
    assert refusal.code == "INVALID_ARGUMENT"
    assert refusal.violations == [("submit.sampling.top_p", "must be in (0, 1] (got 1.5)")]
    await session.submit("bad", "Hello")
    assert (await session.answer("bad")).text


@pytest.mark.parametrize(
    ("request_id", "field"), [("", "request_id"), ("x" * 129, "request_id"), ("a", "command")]
)
async def test_a_command_needs_an_id_of_1_to_128_characters_and_something_to_do(
    world: World, request_id: str, field: str
) -> None:
    session = world.session()
    await session.send(request_id)
    refusal = await session.rejection(request_id)
    assert (refusal.code, refusal.violations[0][0]) == ("INVALID_ARGUMENT", field)


async def test_a_message_with_invalid_utf8_is_refused_in_band(world: World) -> None:
    call = raw_session(world)
    message = pb.SessionRequest(request_id="a", submit=pb.Submit(prompt=as_prompt("HELLO")))
    await call.write(message.SerializeToString().replace(b"HELLO", b"H\xff\xfeLO"))
    response = await call.read()
    assert response.rejected.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "submit.prompt.text: must be valid UTF-8" in response.rejected.message
    await call.write(pb.SessionRequest(request_id="b", submit=message.submit).SerializeToString())
    assert (await call.read()).WhichOneof("event") == "accepted"
    call.cancel()


async def test_after_the_clients_last_word_running_requests_finish(world: World) -> None:
    session = world.session()
    await session.submit("a", "Hello")
    await session.call.done_writing()
    assert (await session.answer("a")).usage.output_tokens == 8
    assert await session.call.read() is grpc.aio.EOF
    assert await session.call.code() == grpc.StatusCode.OK


async def test_the_end_of_a_session_releases_what_it_holds(world: World) -> None:
    session = world.session()
    await session.submit("a", "Hello", hold=True)
    await session.answer("a")
    assert (await world.load()).held_blocks > 0
    await session.call.done_writing()
    assert await session.call.read() is grpc.aio.EOF
    await world.until_idle()


async def test_one_session_may_not_collect_requests_without_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("octavo.service.rpc.turns.MAX_REQUESTS", 2)
    session = world.session()
    for name in "ab":
        await session.submit(name, "Hello", hold=True)
        await session.answer(name)
    await session.submit("c", "Hello")
    assert (await session.rejection("c")).code == "RESOURCE_EXHAUSTED"
    await session.cancel("a")
    await session.submit("c", "Hello")
    assert (await session.answer("c")).text


async def test_an_unexpected_error_fails_one_request_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret")

    session = world.session()
    with monkeypatch.context() as patch:
        patch.setattr(world.engine, "submit", broken)
        await session.submit("a", "Hello")
        refusal = await session.rejection("a")
    assert refusal.code == "INTERNAL"
    assert "secret" not in refusal.message
    await session.submit("a", "Hello")
    await asyncio.wait_for(session.answer("a"), 10)


def raw_session(world: World) -> grpc.aio.StreamStreamCall[bytes, pb.SessionResponse]:
    """A session whose requests are bytes: what no well-made client sends."""
    method = world.channel.stream_stream(
        "/octavo.v1.Inference/Session", response_deserializer=pb.SessionResponse.FromString
    )
    return method()
