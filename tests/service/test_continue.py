"""Continuing a held request: only the new tokens are computed, and the outcome is that of a fresh request."""

from __future__ import annotations

import grpc
import pytest

from octavo.v1 import inference_pb2 as pb
from tests.service.conftest import ENDLESS, GREEDY, SessionClient, World, chat, collect

LONG_QUESTION = "Pages of keys and values are shared between sequences that start alike. " * 3


async def test_only_the_new_tokens_are_computed(world: World) -> None:
    session = world.session()
    await session.submit("first", chat(LONG_QUESTION), hold=True)
    first = await session.answer("first")
    await session.continue_from("first", "second", chat("And then?"))
    second = await session.answer("second")
    whole = first.usage.prompt_tokens + first.usage.output_tokens
    assert second.usage.cached_prompt_tokens == whole - 1  # the last token drawn was never computed
    assert second.usage.prompt_tokens > whole


@pytest.mark.parametrize("prefix_caching", [True, False])
async def test_a_continued_chat_answers_like_the_whole_chat_asked_at_once(
    serving: object, prefix_caching: bool
) -> None:
    world = await serving(prefix_caching=prefix_caching)
    session = world.session()
    await session.submit("first", chat(LONG_QUESTION), hold=True)
    first = await session.answer("first")
    await session.continue_from("first", "second", chat("And then?"))
    continued = await session.answer("second")

    tokens = await token_ids_after(world, chat(LONG_QUESTION), first.token_ids, "And then?")
    fresh = await collect(
        world.inference.Generate(
            pb.GenerateRequest(prompt=pb.Prompt(token_ids=pb.TokenIds(ids=tokens)), sampling=GREEDY)
        )
    )
    assert continued.usage.prompt_tokens == len(tokens)
    assert continued.token_ids == fresh.token_ids


async def test_the_end_of_sequence_token_is_not_doubled(world: World) -> None:
    """A reply that ended by <|im_end|>, the text with which the template goes on."""
    nearly_uniform = pb.SamplingParams(temperature=5.0, seed=3)
    session = world.session()
    await session.submit("first", chat("Hello"), hold=True, sampling=nearly_uniform)
    first = await session.answer("first")
    assert first.finish_reason == pb.FINISH_REASON_EOS
    await session.continue_from("first", "second", chat("And then?"))
    second = await session.answer("second")
    tokens = await token_ids_after(world, chat("Hello"), first.token_ids[:-1], "And then?")
    assert second.usage.prompt_tokens == len(tokens)


async def test_text_and_token_ids_follow_the_reply_directly(world: World) -> None:
    session = world.session()
    await session.submit("first", "Hello", hold=True)
    first = await session.answer("first")
    await session.continue_from("first", "second", pb.Prompt(token_ids=pb.TokenIds(ids=[5, 6, 7])), hold=True)
    second = await session.answer("second")
    whole = first.usage.prompt_tokens + first.usage.output_tokens
    assert second.usage.prompt_tokens == whole + 3
    tokens = await world.inference.Tokenize(pb.TokenizeRequest(text=" dog", add_special_tokens=False))
    await session.continue_from("second", "third", " dog")
    third = await session.answer("third")
    assert third.usage.prompt_tokens == whole + 3 + second.usage.output_tokens + len(tokens.token_ids)


async def test_a_kept_parent_can_be_continued_again(world: World) -> None:
    session = world.session()
    await session.submit("parent", chat(LONG_QUESTION), hold=True)
    parent = await session.answer("parent")
    computed = parent.usage.prompt_tokens + parent.usage.output_tokens - 1
    for branch in ("left", "right"):
        await session.continue_from("parent", branch, chat(f"Go {branch}"), keep_parent=True)
    left, right = await session.answer("left"), await session.answer("right")
    assert left.usage.cached_prompt_tokens == right.usage.cached_prompt_tokens == computed
    await session.cancel("parent")
    await world.until_idle()


async def test_a_parent_that_is_not_kept_is_gone(world: World) -> None:
    session = await held(world)
    await session.continue_from("held", "second", chat("And then?"))
    await session.answer("second")
    await session.continue_from("held", "third", chat("And then?"))
    refusal = await session.rejection("third")
    assert refusal.code == "NOT_FOUND"
    assert refusal.violations[0][0] == "continuation.from_request_id"


async def test_a_running_request_cannot_be_continued(world: World) -> None:
    session = world.session()
    await session.submit("running", chat("Hello"), sampling=ENDLESS, hold=True)
    await world.until_running()
    await session.continue_from("running", "second", chat("And then?"))
    refusal = await session.rejection("second")
    assert refusal.code == "FAILED_PRECONDITION"
    assert refusal.violations[0][0] == "continuation.from_request_id"
    session.call.cancel()


async def test_a_request_that_was_not_held_cannot_be_continued(world: World) -> None:
    session = world.session()
    await session.submit("first", chat("Hello"))
    await session.answer("first")
    await session.continue_from("first", "second", chat("And then?"))
    assert (await session.rejection("second")).code == "NOT_FOUND"


async def test_a_refused_continuation_leaves_its_parent_held(world: World) -> None:
    session = await held(world)
    await session.continue_from("held", "bad", chat("And then?"), sampling=pb.SamplingParams(top_p=2))
    assert (await session.rejection("bad")).violations[0][0] == "continuation.sampling.top_p"
    await session.continue_from("held", "good", chat("And then?"))
    assert (await session.answer("good")).text


async def test_a_chat_cannot_continue_a_text(world: World) -> None:
    session = world.session()
    await session.submit("text", "Hello", hold=True)
    await session.answer("text")
    await session.continue_from("text", "chat", chat("And then?"))
    assert (await session.rejection("chat")).violations[0][0] == "continuation.prompt.chat"


async def test_bad_messages_are_counted_as_the_client_sent_them(world: World) -> None:
    session = await held(world)
    messages = [
        pb.ChatMessage(role="user", content="And then?"),
        pb.ChatMessage(role="pirate", content="Arr"),
    ]
    await session.continue_from("held", "bad", pb.Prompt(chat=pb.Chat(messages=messages)))
    refusal = await session.rejection("bad")
    assert refusal.violations[0][0] == "continuation.prompt.chat.messages[1].role"


async def test_after_a_stop_string_the_chat_goes_on_from_the_text_without_it(world: World) -> None:
    session = world.session()
    await session.submit("whole", chat(LONG_QUESTION))
    stop = (await session.answer("whole")).text[2:4]
    params = pb.SamplingParams(temperature=0, ignore_eos=True, max_tokens=8, stop=[stop])
    await session.submit("first", chat(LONG_QUESTION), hold=True, sampling=params)
    first = await session.answer("first")
    assert first.finish_reason == pb.FINISH_REASON_STOP
    await session.continue_from("first", "second", chat("And then?"))
    second = await session.answer("second")
    conversation = chat(LONG_QUESTION, first.text, "And then?")
    tokens = await world.inference.Tokenize(pb.TokenizeRequest(chat=conversation.chat))
    assert second.usage.prompt_tokens == len(tokens.token_ids)
    assert second.usage.cached_prompt_tokens > 0


async def test_a_held_request_that_is_cancelled_is_released(world: World) -> None:
    session = await held(world)
    await session.cancel("held")
    await world.until_idle()
    await session.cancel("held")
    assert (await session.rejection("held")).code == "NOT_FOUND"


async def test_a_hold_whose_time_has_passed_can_be_continued_at_a_price(serving: object) -> None:
    world = await serving(hold_timeout=0.05, prefix_caching=False)
    session = await held(world)
    await world.until_idle()
    await session.continue_from("held", "second", chat("And then?"))
    assert (await session.answer("second")).usage.cached_prompt_tokens == 0


async def test_a_session_that_breaks_releases_what_it_holds(world: World) -> None:
    session = await held(world)
    await session.submit("running", "Hello", sampling=ENDLESS, hold=True)
    await world.until_running()
    session.call.cancel()
    assert await session.call.code() == grpc.StatusCode.CANCELLED
    await world.until_idle()


async def held(world: World) -> SessionClient:
    """A session with one finished chat, held as "held"."""
    session = world.session()
    await session.submit("held", chat("Hello"), hold=True)
    await session.answer("held")
    return session


async def token_ids_after(world: World, prompt: pb.Prompt, reply: list[int], question: str) -> list[int]:
    """What a whole chat is in tokens: prompt, reply, and the ChatML between it and the next answer."""
    begin = await world.inference.Tokenize(pb.TokenizeRequest(chat=prompt.chat))
    between = f"<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    rest = await world.inference.Tokenize(pb.TokenizeRequest(text=between, add_special_tokens=False))
    return [*begin.token_ids, *reply, *rest.token_ids]
