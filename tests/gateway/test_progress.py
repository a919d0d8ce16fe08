"""What a client hears of a request that moves from pod to pod is what it would have heard of one pod."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.service.gateway.progress import Extent, Progress
from octavo.v1 import inference_pb2 as pb

LENGTH, STOP = pb.FINISH_REASON_LENGTH, pb.FINISH_REASON_STOP
CANCELLED = pb.FINISH_REASON_CANCELLED
ENDS = (LENGTH, STOP, pb.FINISH_REASON_EOS, pb.FINISH_REASON_REPETITION)


@dataclass(frozen=True)
class Whole:
    """An output as any pod makes it: each token's text, the first ones thought, and how it ends."""

    texts: tuple[str, ...]
    num_thoughts: int
    finish_reason: int

    def delta(self, index: int, start: int, end: int) -> pb.Delta:
        thoughts = self.texts[start : min(end, self.num_thoughts)]
        return pb.Delta(
            index=index,
            token_ids=range(start, end),
            logprobs=[
                pb.TokenLogprobs(chosen=pb.TokenLogprob(token_id=token)) for token in range(start, end)
            ],
            reasoning="".join(thoughts),
            text="".join(self.texts[start + len(thoughts) : end]),
            finish_reason=self.finish_reason if end == len(self.texts) else None,
        )


PROMPT = pb.TokenLogprobs(chosen=pb.TokenLogprob(token_id=99))


@dataclass
class Pod:
    """Makes the outputs from where a command says, in pieces of any size and in any order."""

    wholes: Sequence[Whole]
    command: pb.GenerateRequest
    cached: int

    def deltas(self, data: st.DataObject) -> Iterator[pb.Delta]:
        sampling, resume = self.command.sampling, self.command.resume
        told = resume.outputs or [resume]
        assert not self.command.HasField("resume") or len(told) == len(self.wholes)
        resumed = self.command.HasField("resume")
        at = [len(told[i].token_ids) if resumed else 0 for i in range(len(self.wholes))]
        going = [i for i, whole in enumerate(self.wholes) if at[i] < len(whole.texts)]
        owes_prompt = sampling.HasField("prompt_logprobs") and not resumed
        ranked = bool(sampling.best_of or sampling.beam_width)
        while going:
            i = going[0] if ranked else data.draw(st.sampled_from(going))
            size = len(self.wholes[i].texts)
            end = size if ranked else data.draw(st.integers(at[i] + 1, size))
            delta = self.wholes[i].delta(i, at[i], end)
            at[i] = end
            if owes_prompt and not i:
                delta.prompt_logprobs.append(PROMPT)
                owes_prompt = False
            delta.usage.output_tokens = sum(map(len, (w.texts for w in self.wholes))) if ranked else sum(at)
            delta.usage.cached_prompt_tokens = self.cached
            if end == size:
                going.remove(i)
            yield delta


texts = st.lists(st.sampled_from(["", "a", "né", "👋", "the "]), min_size=1, max_size=6)
outputs = st.lists(
    st.builds(Whole, texts.map(tuple), st.integers(0, 3), st.sampled_from(ENDS)), min_size=1, max_size=4
)
WAYS: dict[str, dict[str, int]] = {
    "as they come": {},
    "the best": {"best_of": 5},
    "beams": {"beam_width": 5},
    "with the prompt": {"prompt_logprobs": 1},
}


@pytest.mark.parametrize("way", WAYS)
@given(st.data(), outputs)
def test_a_request_that_moves_is_told_as_one_that_stays(
    way: str, data: st.DataObject, wholes: list[Whole]
) -> None:
    given = pb.GenerateRequest(sampling=pb.SamplingParams(n=len(wholes), **WAYS[way]))
    progress = Progress(given)
    command = pb.GenerateRequest()
    command.CopyFrom(given)
    heard: list[pb.Delta] = []
    losses = data.draw(st.integers(0, 4))
    for number in range(losses + 1):
        for delta in Pod(wholes, command, cached=number).deltas(data):
            if number < losses and data.draw(st.booleans()):
                break  # the pod is lost with what it was about to say
            if progress.take(delta):
                heard.append(delta)
        if progress.ended:
            break
        progress.moves()
        progress.resume(command)
    assert progress.ended
    assert progress.finish_reasons == [whole.finish_reason for whole in wholes]
    for index, whole in enumerate(wholes):
        mine = [delta for delta in heard if delta.index == index]
        expected = whole.delta(index, 0, len(whole.texts))
        assert [token for delta in mine for token in delta.token_ids] == list(expected.token_ids)
        assert [entry for delta in mine for entry in delta.logprobs] == list(expected.logprobs)
        assert "".join(delta.text for delta in mine) == expected.text
        assert "".join(delta.reasoning for delta in mine) == expected.reasoning
        assert [delta.finish_reason for delta in mine] == [0] * (len(mine) - 1) + [whole.finish_reason]
    prompts = [delta.index for delta in heard if delta.prompt_logprobs]
    assert prompts == ([0] if way == "with the prompt" else [])
    counts = [delta.usage.output_tokens for delta in heard]
    assert counts == sorted(counts)
    assert counts[-1] == sum(len(whole.texts) for whole in wholes)
    assert len({delta.usage.cached_prompt_tokens for delta in heard}) == 1


def request(resume: pb.Resumption | None = None, **sampling: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(sampling=pb.SamplingParams(**sampling), resume=resume)


def after(command: pb.GenerateRequest, *deltas: pb.Delta) -> pb.GenerateRequest:
    """What the next pod gets when these deltas were told by the first."""
    progress = Progress(command)
    for delta in deltas:
        assert progress.take(delta)
    progress.moves()
    message = pb.GenerateRequest()
    message.CopyFrom(command)
    progress.resume(message)
    return message


def test_nothing_is_resumed_that_was_not_begun() -> None:
    assert not after(request(n=3)).HasField("resume")


def test_the_tokens_of_one_output_stand_for_themselves() -> None:
    assert after(request(), pb.Delta(token_ids=[5, 6])).resume == pb.Resumption(token_ids=[5, 6])


def test_each_of_several_outputs_goes_on_or_has_ended() -> None:
    ended = pb.Delta(index=1, token_ids=[7], finish_reason=STOP)
    message = after(request(n=3), pb.Delta(token_ids=[5]), ended)
    assert list(message.resume.outputs) == [
        pb.Resumption(token_ids=[5]),
        pb.Resumption(token_ids=[7], finish_reason=STOP),
        pb.Resumption(),
    ]
    assert not message.resume.token_ids


@pytest.mark.parametrize("chosen", [{"best_of": 3}, {"beam_width": 3}])
def test_what_is_told_at_the_end_is_made_again(chosen: dict[str, int]) -> None:
    told = pb.Delta(token_ids=[5], finish_reason=LENGTH)
    assert not after(request(n=2, **chosen), told).HasField("resume")


def test_a_request_goes_on_once_its_prompt_is_told() -> None:
    late = pb.Delta(index=1, token_ids=[7])
    first = pb.Delta(token_ids=[5], prompt_logprobs=[PROMPT])
    assert not after(request(n=2, prompt_logprobs=0), late).HasField("resume")
    assert len(after(request(n=2, prompt_logprobs=0), late, first).resume.outputs) == 2


def test_what_the_client_goes_on_from_comes_before_what_it_was_told() -> None:
    one = pb.Resumption(token_ids=[1, 2])
    assert after(request(one), pb.Delta(token_ids=[3])).resume.token_ids == [1, 2, 3]
    two = pb.Resumption(outputs=[one, pb.Resumption(token_ids=[4], finish_reason=LENGTH)])
    progress = Progress(request(two, n=2))
    assert not progress.ended
    assert progress.take(pb.Delta(token_ids=[3], finish_reason=STOP))
    assert progress.ended
    assert progress.num_tokens == 4


def test_nobody_computes_the_prompt_of_a_resumed_request() -> None:
    message = after(
        request(pb.Resumption(token_ids=[1]), prompt_logprobs=1), pb.Delta(index=0, token_ids=[2])
    )
    assert message.resume.token_ids == [1, 2]


def test_a_number_of_outputs_that_no_pod_takes_costs_nothing() -> None:
    message = after(request(pb.Resumption(token_ids=[1]), n=2**31 - 1))
    assert message.resume == pb.Resumption(token_ids=[1])


def test_the_running_outputs_are_those_that_a_cancel_ends() -> None:
    progress = Progress(request(n=3))
    progress.take(pb.Delta(index=1, token_ids=[7], finish_reason=STOP))
    assert progress.running == [0, 2]
    for index in progress.running:
        progress.take(pb.Delta(index=index, finish_reason=CANCELLED))
    assert progress.ended
    assert progress.finish_reasons == [CANCELLED, STOP, CANCELLED]


def test_a_cut_is_in_tokens_and_in_characters_each_by_its_own_count() -> None:
    delta = pb.Delta(token_ids=[1, 2], text="née", reasoning="so")
    Extent(tokens=1, text=2, reasoning=5).cut_from(delta)
    assert (delta.token_ids, delta.text, delta.reasoning) == ([2], "e", "")
