"""The log-probabilities of an echoed prompt before those of its outputs, apart from any server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable

import pytest

from octavo.service.openai.echo import with_prompt_logprobs
from octavo.v1 import inference_pb2 as pb


def entries(*ids: int) -> list[pb.TokenLogprobs]:
    return [pb.TokenLogprobs(chosen=pb.TokenLogprob(token_id=each)) for each in ids]


def delta(index: int, *ids: int, prompt: Iterable[int] = ()) -> pb.Delta:
    return pb.Delta(index=index, logprobs=entries(*ids), prompt_logprobs=entries(*prompt))


@pytest.mark.parametrize(
    "told",
    [
        [delta(0, 7, prompt=[2, 3]), delta(0, 8)],
        [delta(0, 7, 8, prompt=[2, 3]), delta(1, 9), delta(1, 10)],
        [delta(1, 9), delta(1, 10), delta(2, 4), delta(0, 7, prompt=[2, 3]), delta(2, 5), delta(0, 8)],
    ],
    ids=["one", "two", "others first"],
)
async def test_each_output_begins_with_the_prompt(told: list[pb.Delta]) -> None:
    own: dict[int, list[int]] = {}
    for each in told:
        own.setdefault(each.index, []).extend(entry.chosen.token_id for entry in each.logprobs)
    found: dict[int, list[int]] = {}
    async for each in with_prompt_logprobs(stream(told), first):
        found.setdefault(each.index, []).extend(entry.chosen.token_id for entry in each.logprobs)
    assert found == {index: [1, 2, 3, *ids] for index, ids in own.items()}


async def test_a_prompt_of_one_token_is_its_first() -> None:
    [only] = [each async for each in with_prompt_logprobs(stream([delta(0, 7)]), first)]
    assert [entry.chosen.token_id for entry in only.logprobs] == [1, 7]


async def test_the_stream_is_closed_with_it() -> None:
    closed = []

    async def endless() -> AsyncGenerator[pb.Delta]:
        try:
            while True:
                yield delta(0, 7)
        finally:
            closed.append(True)

    deltas = with_prompt_logprobs(endless(), first)
    await anext(deltas)
    await deltas.aclose()
    assert closed


async def stream(deltas: Iterable[pb.Delta]) -> AsyncGenerator[pb.Delta]:
    for each in deltas:
        yield each


async def first() -> pb.TokenLogprobs:
    [entry] = entries(1)
    return entry
