"""`Generate`: one request, its output streamed."""

from __future__ import annotations

import pytest

from octavo.v1 import inference_pb2 as pb
from tests.service.conftest import ENDLESS, GREEDY, World, as_prompt, chat, collect


async def generate(world: World, prompt: str | pb.Prompt, **sampling: object) -> object:
    params = pb.SamplingParams()
    params.CopyFrom(GREEDY)
    params.MergeFrom(pb.SamplingParams(**sampling))
    return await collect(
        world.inference.Generate(pb.GenerateRequest(prompt=as_prompt(prompt), sampling=params))
    )


async def test_text_token_ids_and_chat_are_the_same_prompt_in_three_forms(world: World) -> None:
    from_chat = await generate(world, chat("Hello"))
    tokens = await world.inference.Tokenize(pb.TokenizeRequest(chat=chat("Hello").chat))
    from_ids = await generate(world, pb.Prompt(token_ids=pb.TokenIds(ids=tokens.token_ids)))
    text = await world.inference.Detokenize(
        pb.DetokenizeRequest(token_ids=tokens.token_ids, skip_special_tokens=False)
    )
    from_text = await generate(world, text.text)
    assert from_chat.token_ids == from_ids.token_ids == from_text.token_ids
    assert len(from_chat.token_ids) == 8


async def test_usage_counts_prompt_output_and_cached_tokens(world: World) -> None:
    prompt = pb.Prompt(token_ids=pb.TokenIds(ids=range(3, 43)))
    first = await generate(world, prompt)
    again = await generate(world, prompt)
    assert (first.usage.prompt_tokens, first.usage.output_tokens) == (40, 8)
    assert first.usage.cached_prompt_tokens == 0
    assert again.usage.cached_prompt_tokens == 32  # two full blocks of 16
    assert again.token_ids == first.token_ids


async def test_the_last_delta_and_only_the_last_has_a_finish_reason(world: World) -> None:
    answer = await generate(world, "Hello")
    assert answer.finish_reason == pb.FINISH_REASON_LENGTH
    assert not any(delta.finish_reason for delta in answer.deltas[:-1])


async def test_a_stop_string_ends_the_output_before_itself(world: World) -> None:
    whole = await generate(world, "Hello", max_tokens=30)
    stop = whole.text[5:8]
    stopped = await generate(world, "Hello", max_tokens=30, stop=[stop])
    assert stopped.finish_reason == pb.FINISH_REASON_STOP
    assert stopped.text == whole.text[: whole.text.index(stop)]


async def test_logprobs_come_for_each_token_when_asked(world: World) -> None:
    answer = await generate(world, "Hello", logprobs=3)
    entries = [entry for delta in answer.deltas for entry in delta.logprobs]
    assert [entry.chosen.token_id for entry in entries] == answer.token_ids
    for entry in entries:
        assert len(entry.top) == 3
        assert entry.top[0].token_id == entry.chosen.token_id  # greedy takes the likeliest
        assert entry.top[0].logprob >= entry.top[1].logprob >= entry.top[2].logprob


@pytest.mark.parametrize("sampling", [{}, {"logprobs": 0}])
async def test_no_alternatives_come_unasked(world: World, sampling: dict[str, int]) -> None:
    answer = await generate(world, "Hello", **sampling)
    entries = [entry for delta in answer.deltas for entry in delta.logprobs]
    assert len(entries) == (8 if sampling else 0)
    assert not any(entry.top for entry in entries)


async def test_a_seed_draws_the_same_tokens_again(world: World) -> None:
    first = await generate(world, "Hello", temperature=1.0, seed=7)
    again = await generate(world, "Hello", temperature=1.0, seed=7)
    other = await generate(world, "Hello", temperature=1.0, seed=8)
    assert first.token_ids == again.token_ids != other.token_ids


async def test_cancelling_the_call_frees_its_blocks(world: World) -> None:
    call = world.inference.Generate(pb.GenerateRequest(prompt=as_prompt("Hello"), sampling=ENDLESS))
    await call.read()
    assert world.engine.load().held_blocks > 0
    call.cancel()
    await world.until_idle()
