"""POST /v1/completions, through the `openai` package."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from octavo.v1 import inference_pb2 as pb
from tests.service.conftest import as_prompt, collect
from tests.service.openai.conftest import GREEDY, Door


async def test_a_text_is_continued_as_grpc_does(door: Door) -> None:
    sampling = pb.SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    request = pb.GenerateRequest(prompt=as_prompt("Pages of"), sampling=sampling)
    by_grpc = await collect(door.world.inference.Generate(request))
    answer = await door.client.completions.create(model="tiny", prompt="Pages of", **GREEDY)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.choices[0].text == by_grpc.text


async def test_a_completion_has_16_tokens_unless_told_otherwise(door: Door) -> None:
    answer = await door.client.completions.create(
        model="tiny", prompt="Pages", temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.usage
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"


async def test_several_prompts_give_several_choices_in_their_order(door: Door) -> None:
    prompts = ["Pages", "of keys", "and values", "are shared"]
    alone = [await door.client.completions.create(model="tiny", prompt=each, **GREEDY) for each in prompts]
    together = await door.client.completions.create(model="tiny", prompt=prompts, **GREEDY)
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in together.choices] == [each.choices[0].text for each in alone]
    assert together.usage
    assert together.usage.completion_tokens == 4 * 8
    assert together.usage.prompt_tokens == sum(each.usage.prompt_tokens for each in alone if each.usage)


async def test_a_stream_of_several_prompts_keeps_their_indexes(door: Door) -> None:
    prompts = ["Pages", "of keys", "and values"]
    whole = await door.client.completions.create(model="tiny", prompt=prompts, **GREEDY)
    stream = await door.client.completions.create(
        model="tiny", prompt=prompts, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    texts: dict[int, str] = defaultdict(str)
    ends = []
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            ends += [choice.index] if choice.finish_reason else []
    assert [texts[i] for i in range(3)] == [choice.text for choice in whole.choices]
    assert sorted(ends) == [0, 1, 2]
    assert chunk.usage == whole.usage


async def test_token_ids_are_taken_as_they_are(door: Door) -> None:
    tokens = (await door.post("/tokenize", {"prompt": "Pages of"})).json()["tokens"]
    text = await door.client.completions.create(model="tiny", prompt="Pages of", **GREEDY)
    ids = await door.client.completions.create(model="tiny", prompt=tokens, **GREEDY)
    lists = await door.client.completions.create(model="tiny", prompt=[tokens, tokens], **GREEDY)
    assert [choice.text for choice in (*ids.choices, *lists.choices)] == [text.choices[0].text] * 3


async def test_the_text_ends_before_a_stop_string(door: Door) -> None:
    whole = (await door.client.completions.create(model="tiny", prompt="Pages", **GREEDY)).choices[0].text
    stop = whole[3:6]
    answer = await door.client.completions.create(model="tiny", prompt="Pages", stop=stop, **GREEDY)
    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


async def test_stop_takes_a_list_and_stop_tokens(door: Door) -> None:
    extra = {"ignore_eos": True, "return_token_ids": True}
    whole = await door.client.completions.create(
        model="tiny", prompt="Pages", temperature=0, max_tokens=8, extra_body=extra
    )
    third = whole.choices[0].model_extra["token_ids"][2]
    answer = await door.client.completions.create(
        model="tiny",
        prompt="Pages",
        temperature=0,
        max_tokens=8,
        stop=["not said", "nor this"],
        extra_body={"ignore_eos": True, "stop_token_ids": [third]},
    )
    assert answer.usage
    assert answer.usage.completion_tokens <= 3
    assert answer.choices[0].finish_reason == "stop"


async def test_logprobs_are_parallel_lists(door: Door) -> None:
    answer = await door.client.completions.create(model="tiny", prompt="Pages", logprobs=2, **GREEDY)
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert logprobs.tokens is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.top_logprobs is not None
    assert logprobs.text_offset is not None
    assert [len(each) for each in (logprobs.tokens, logprobs.token_logprobs)] == [8, 8]
    assert all(2 <= len(top) <= 3 for top in logprobs.top_logprobs)
    for token, value, top in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        assert top[token] == value
    assert logprobs.text_offset[0] == 0
    assert logprobs.text_offset == sorted(logprobs.text_offset)


async def test_logprobs_in_a_stream_are_the_same(door: Door) -> None:
    arguments = {"model": "tiny", "prompt": "Pages", "logprobs": 1, **GREEDY}
    whole = (await door.client.completions.create(**arguments)).choices[0].logprobs
    stream = await door.client.completions.create(stream=True, **arguments)
    told = [chunk.choices[0].logprobs async for chunk in stream if chunk.choices[0].logprobs]
    assert whole
    assert [token for each in told for token in each.tokens or ()] == whole.tokens
    assert [offset for each in told for offset in each.text_offset or ()] == whole.text_offset


async def test_minus_one_keeps_all_tokens_as_zero_does(door: Door) -> None:
    texts = [
        (
            await door.client.completions.create(
                model="tiny", prompt="Pages", seed=3, max_tokens=20, extra_body={"top_k": top_k}
            )
        )
        .choices[0]
        .text
        for top_k in (-1, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]


async def test_many_clients_at_once_get_their_own_answers(door: Door) -> None:
    prompts = [f"Page {i} of" for i in range(24)]

    async def complete(prompt: str) -> str:
        answer = await door.client.completions.create(model="tiny", prompt=prompt, **GREEDY)
        return answer.choices[0].text

    together = await asyncio.gather(*map(complete, prompts))
    alone = [await complete(prompt) for prompt in prompts[:6]]
    assert together[:6] == alone
    await door.world.until_idle()
