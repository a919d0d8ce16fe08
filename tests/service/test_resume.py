"""Requests that another server began: the client's stream goes on with no gap and no repeat."""

from __future__ import annotations

import asyncio

import pytest

from octavo.engine.detokenizer import Detokenizer
from octavo.v1 import inference_pb2 as pb
from tests.service.conftest import (
    GREEDY,
    Answer,
    Refusal,
    Serving,
    SessionClient,
    World,
    as_prompt,
    chat,
    collect,
    refused,
)

SAMPLINGS = {
    "greedy": pb.SamplingParams(temperature=0, ignore_eos=True, max_tokens=12),
    "seeded": pb.SamplingParams(
        temperature=1.2,
        seed=5,
        ignore_eos=True,
        max_tokens=20,
        min_tokens=4,
        repetition_penalty=1.2,
        frequency_penalty=0.5,
        logprobs=2,
        stop_token_ids=range(150, 170),
    ),
    "stop strings": pb.SamplingParams(
        temperature=1.2, seed=9, ignore_eos=True, max_tokens=30, stop=["e", "\ufffd\ufffd", " t"]
    ),
}
QUESTION = chat("Né 世界? 👋")
LENGTH = pb.FINISH_REASON_LENGTH


def resumption(answer: Answer, cut: int | None = None) -> pb.Resumption:
    """What a gateway has passed on: `cut` tokens, or all with the reason of the end."""
    if cut is None:
        return pb.Resumption(token_ids=answer.token_ids, finish_reason=answer.finish_reason)
    return pb.Resumption(token_ids=answer.token_ids[:cut])


def told(world: World, sampling: pb.SamplingParams, token_ids: list[int]) -> str:
    return Detokenizer(world.engine.tokenizer, tuple(sampling.stop)).push(token_ids)


def check_joined(world: World, sampling: pb.SamplingParams, whole: Answer, cut: int, rest: Answer) -> None:
    before = whole.token_ids[:cut]
    assert before + rest.token_ids == whole.token_ids
    assert told(world, sampling, before) + rest.text == whole.text
    assert rest.finish_reason == whole.finish_reason
    assert rest.usage.prompt_tokens == whole.usage.prompt_tokens
    assert rest.usage.output_tokens == whole.usage.output_tokens
    assert rest.usage.cached_prompt_tokens <= rest.usage.prompt_tokens


@pytest.mark.parametrize("name", SAMPLINGS)
async def test_generate_goes_on_from_any_token(serving: Serving, name: str) -> None:
    sampling = SAMPLINGS[name]
    one, other = await serving(dtype="float32"), await serving(dtype="float32")
    request = pb.GenerateRequest(prompt=QUESTION, sampling=sampling)
    whole = await collect(one.inference.Generate(request))
    cuts = range(len(whole.token_ids))
    resumed = [
        pb.GenerateRequest(prompt=QUESTION, sampling=sampling, resume=resumption(whole, cut)) for cut in cuts
    ]
    rests = await asyncio.gather(*(collect(other.inference.Generate(message)) for message in resumed))
    for cut, rest in zip(cuts, rests, strict=True):
        check_joined(other, sampling, whole, cut, rest)


async def test_logprobs_come_for_what_follows(world: World) -> None:
    sampling = SAMPLINGS["seeded"]
    whole = await collect(world.inference.Generate(pb.GenerateRequest(prompt=QUESTION, sampling=sampling)))
    message = pb.GenerateRequest(prompt=QUESTION, sampling=sampling, resume=resumption(whole, 3))
    rest = await collect(world.inference.Generate(message))
    entries = [entry for delta in rest.deltas for entry in delta.logprobs]
    assert [entry.chosen.token_id for entry in entries] == whole.token_ids[3:]
    assert all(
        entry.chosen.text == world.engine.tokenizer.bytes_of(entry.chosen.token_id) for entry in entries
    )


@pytest.mark.parametrize("name", SAMPLINGS)
async def test_a_chain_of_turns_is_rebuilt_on_another_server(serving: Serving, name: str) -> None:
    """Its last turn goes on from any token, and the turn after that is answered as on the first server."""
    sampling = SAMPLINGS[name]
    one, other = await serving(dtype="float32"), await serving(dtype="float32")
    session = one.session()
    await session.submit("a", QUESTION, hold=True, sampling=sampling)
    first = await session.answer("a")
    await session.continue_from("a", "b", chat("And then?"), hold=True, sampling=sampling)
    second = await session.answer("b")
    await session.continue_from("b", "c", chat("Why?"), sampling=sampling)
    third = await session.answer("c")

    for cut in (0, 1, len(second.token_ids) - 1):
        rebuilt = other.session()
        await rebuilt.submit("a", QUESTION, hold=True, sampling=sampling, resume=resumption(first))
        await rebuilt.continue_from(
            "a", "b", chat("And then?"), hold=True, sampling=sampling, resume=resumption(second, cut)
        )
        nothing = await rebuilt.answer("a")
        assert (nothing.text, nothing.token_ids) == ("", [])
        assert nothing.finish_reason == first.finish_reason
        assert nothing.usage == first.usage
        check_joined(other, sampling, second, cut, await rebuilt.answer("b"))
        await rebuilt.continue_from("b", "c", chat("Why?"), sampling=sampling)
        again = await rebuilt.answer("c")
        assert (again.text, again.token_ids) == (third.text, third.token_ids)
        assert again.usage.prompt_tokens == third.usage.prompt_tokens
        rebuilt.call.cancel()
    await other.until_idle()


async def test_a_whole_chain_can_be_sent_without_waiting(serving: Serving) -> None:
    one, other = await serving(), await serving()
    session = one.session()
    answers, names = [], ["a", "b", "c", "d"]
    for parent, name in zip([None, *names], names, strict=False):
        await submit_or_continue(session, parent, name)
        answers.append(await session.answer(name))
    rebuilt = other.session()
    for parent, name, answer in zip([None, *names], names, answers, strict=False):
        await submit_or_continue(rebuilt, parent, name, resume=resumption(answer))
    for name, answer in zip(names, answers, strict=True):
        assert (await rebuilt.answer(name)).usage.prompt_tokens == answer.usage.prompt_tokens
    assert other.engine.load().total_requests == 0, "nothing was computed"
    await submit_or_continue(session, "d", "e")
    await submit_or_continue(rebuilt, "d", "e")
    assert (await rebuilt.answer("e")).token_ids == (await session.answer("e")).token_ids


async def submit_or_continue(session: SessionClient, parent: str | None, name: str, **fields: object) -> None:
    if parent is None:
        await session.submit(name, chat("Hello"), hold=True, **fields)
    else:
        await session.continue_from(parent, name, chat(f"And {name}?"), hold=True, **fields)


async def test_a_rebuilt_turn_is_held_as_any_other(world: World) -> None:
    session = world.session()
    ended = pb.Resumption(token_ids=[5, 6], finish_reason=LENGTH)
    await session.submit("a", "Hello", hold=True, resume=ended)
    await session.answer("a")
    for branch in ("left", "right"):
        await session.continue_from("a", branch, " dog", keep_parent=True)
        await session.answer(branch)
    await session.cancel("a")
    await session.continue_from("a", "late", " dog")
    assert (await session.rejection("late")).code == "NOT_FOUND"
    await world.until_idle()


async def test_the_hold_of_a_rebuilt_turn_times_out_harmlessly(serving: Serving) -> None:
    world = await serving(hold_timeout=0.02)
    session = world.session()
    ended = pb.Resumption(token_ids=[5, 6], finish_reason=LENGTH)
    await session.submit("a", "Hello", hold=True, resume=ended)
    await session.answer("a")
    await asyncio.sleep(0.1)
    await session.continue_from("a", "b", " dog")
    assert len((await session.answer("b")).token_ids) == 8


REFUSED = {
    "an unknown id": (pb.Resumption(token_ids=[5, 384]), "resume.token_ids[1]"),
    "too large an id": (pb.Resumption(token_ids=[2**32 - 1]), "resume.token_ids[0]"),
    "all of max_tokens": (pb.Resumption(token_ids=[5] * 8), "resume.token_ids"),
    "an end without tokens": (pb.Resumption(finish_reason=LENGTH), "resume.token_ids"),
    "a cancel": (pb.Resumption(token_ids=[5], finish_reason=4), "resume.finish_reason"),
    "another end": (pb.Resumption(token_ids=[5], finish_reason=1), "resume.finish_reason"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_no_server_can_have_put_out_is_rejected(world: World, case: str) -> None:
    resume, field = REFUSED[case]
    session = world.session()
    await session.submit("a", "Hello", hold=True, resume=resume)
    refusal = await session.rejection("a")
    assert (refusal.code, refusal.violations[0][0]) == ("INVALID_ARGUMENT", f"submit.{field}")
    ended = pb.Resumption(token_ids=[5, 6], finish_reason=LENGTH)
    await session.submit("a", "Hello", hold=True, resume=ended)
    await session.answer("a")
    await session.continue_from("a", "b", " dog", hold=True, resume=resume)
    refusal = await session.rejection("b")
    assert (refusal.code, refusal.violations[0][0]) == ("INVALID_ARGUMENT", f"continuation.{field}")
    await session.continue_from("a", "b", " dog")
    assert (await session.answer("b")).token_ids, "the parent is held still"


async def test_an_end_is_for_requests_that_are_held(world: World) -> None:
    ended = pb.Resumption(token_ids=[5, 6], finish_reason=LENGTH)
    session = world.session()
    await session.submit("a", "Hello", resume=ended)
    assert (await session.rejection("a")).violations == [
        ("submit.resume.finish_reason", "must not be set without hold: nothing could follow (got 'LENGTH')")
    ]
    request = pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=GREEDY, resume=ended)
    refusal: Refusal = await refused(world.inference.Generate(request))
    assert refusal.violations[0][0] == "resume.finish_reason"


async def test_an_end_that_nobody_noticed_is_told(world: World) -> None:
    request = pb.GenerateRequest(
        prompt=as_prompt("Hello"),
        sampling=pb.SamplingParams(temperature=0, stop_token_ids=[7]),
        resume=pb.Resumption(token_ids=[5, 7]),
    )
    answer = await collect(world.inference.Generate(request))
    assert (answer.text, answer.token_ids) == ("", [])
    assert answer.finish_reason == pb.FINISH_REASON_STOP
    assert answer.usage.output_tokens == 2


async def test_a_resumed_request_that_is_cancelled_frees_its_blocks(world: World) -> None:
    sampling = pb.SamplingParams(temperature=0, ignore_eos=True)
    request = pb.GenerateRequest(
        prompt=as_prompt("Hello"), sampling=sampling, resume=pb.Resumption(token_ids=[5] * 40)
    )
    call = world.inference.Generate(request)
    await call.read()
    call.cancel()
    await world.until_idle()
