"""Answers as JSON, apart from any server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.service.openai.answers import CHAT, COMPLETION, Answer, ChoiceWriter, CollectedChoice, Shape
from octavo.service.openai.logprobs import UNKNOWN, ChatLogprobs, CompletionLogprobs
from octavo.v1 import inference_pb2 as pb

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=8)


def deltas_of(texts: list[str]) -> list[pb.Delta]:
    deltas = [pb.Delta(text=text, token_ids=[i]) for i, text in enumerate(texts)]
    deltas[-1].finish_reason = pb.FINISH_REASON_EOS
    return deltas


def events_of(answer: Answer, deltas: list[pb.Delta]) -> list[dict[str, Any]]:
    """The events as a reader of the stream splits them, by lines of any kind."""
    writer = ChoiceWriter(answer, 3)
    stream = "".join(map(writer.events, deltas))
    lines = [line for line in stream.splitlines() if line]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.parametrize("shape", [CHAT, COMPLETION])
@pytest.mark.parametrize("options", [{}, {"usage": True}, {"continuous_usage": True}, {"token_ids": True}])
@given(texts=TEXTS)
def test_events_joined_are_the_whole_text(shape: Shape, options: dict[str, bool], texts: list[str]) -> None:
    answer = Answer(shape, "a/model", **options)
    deltas = deltas_of(texts)
    choices = [event["choices"][0] for event in events_of(answer, deltas)]
    told = [choice["delta"].get("content", "") if shape is CHAT else choice["text"] for choice in choices]
    assert "".join(told) == "".join(texts)
    assert [choice["finish_reason"] for choice in choices][-1] == "stop"
    assert all(choice["finish_reason"] is None for choice in choices[:-1])
    assert all(choice["index"] == 3 for choice in choices)
    whole = CollectedChoice(answer)
    for delta in deltas:
        whole.add(delta)
    [choice] = json.loads(answer.whole({0: whole}, [pb.Usage()]))["choices"]
    assert (choice["message"]["content"] if shape is CHAT else choice["text"]) == "".join(texts)


def test_a_line_separator_in_a_text_does_not_end_an_event() -> None:
    text = 'a\u2028b\u0085c\r\nd"\\\x00🦉'
    [role, event] = events_of(Answer(CHAT, "m"), deltas_of([text]))
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert event["choices"][0]["delta"]["content"] == text


def test_tokens_without_text_are_told_only_if_tokens_are_asked_for() -> None:
    deltas = [pb.Delta(text="", token_ids=[1]), *deltas_of(["x"])]
    assert len(events_of(Answer(COMPLETION, "m"), deltas)) == 1
    ids = [
        event["choices"][0]["token_ids"]
        for event in events_of(Answer(COMPLETION, "m", token_ids=True), deltas)
    ]
    assert ids == [[1], [0]]


@pytest.mark.parametrize("shape", [CHAT, COMPLETION])
def test_reasoning_has_both_of_its_names(shape: Shape) -> None:
    deltas = [pb.Delta(reasoning="Hm, "), pb.Delta(reasoning="so", text="Four"), *deltas_of(["."])]
    answer = Answer(shape, "m")
    choices = [event["choices"][0] for event in events_of(answer, deltas)]
    told = [choice["delta"] if shape is CHAT else choice for choice in choices]
    assert "".join(each.get("reasoning", "") for each in told) == "Hm, so"
    assert all(each.get("reasoning") == each.get("reasoning_content") for each in told)
    [choice] = whole_of(answer, {0: deltas})["choices"]
    message = choice["message"] if shape is CHAT else choice
    assert (message["reasoning"], message["reasoning_content"]) == ("Hm, so", "Hm, so")
    assert message["content" if shape is CHAT else "text"] == "Four."


@pytest.mark.parametrize("shape", [CHAT, COMPLETION])
def test_reasoning_can_be_left_out(shape: Shape) -> None:
    deltas = [pb.Delta(reasoning="Hm", token_ids=[7]), *deltas_of(["Four"])]
    answer = Answer(shape, "m", reasoning=False)
    assert "Hm" not in json.dumps(events_of(answer, deltas))
    assert "Hm" not in json.dumps(whole_of(answer, {0: deltas}))


@pytest.mark.parametrize("shape", [CHAT, COMPLETION])
def test_a_score_stands_beside_the_finish_reason(shape: Shape) -> None:
    deltas = deltas_of(["a"])
    deltas[-1].score = -0.25
    *_, last = events_of(Answer(shape, "m"), deltas)
    assert last["choices"][0]["score"] == -0.25
    assert whole_of(Answer(shape, "m"), {0: deltas})["choices"][0]["score"] == -0.25
    assert "score" not in whole_of(Answer(shape, "m"), {0: deltas_of(["a"])})["choices"][0]


def test_a_pattern_that_repeats_is_a_reason_of_its_own() -> None:
    deltas = [pb.Delta(text="a a a", finish_reason=pb.FINISH_REASON_REPETITION)]
    assert whole_of(Answer(CHAT, "m"), {0: deltas})["choices"][0]["finish_reason"] == "repetition"


def test_choices_stand_in_their_order_and_usage_is_of_prompts() -> None:
    usages = [pb.Usage(prompt_tokens=3, output_tokens=8), pb.Usage(prompt_tokens=5, output_tokens=2)]
    body = whole_of(
        Answer(COMPLETION, "m"), {i: deltas_of([name]) for i, name in ((2, "c"), (0, "a"), (1, "b"))}, usages
    )
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [(0, "a"), (1, "b"), (2, "c")]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (8, 10)


PROMPT = pb.Delta(
    text="x",
    prompt_logprobs=[
        pb.TokenLogprobs(
            chosen=pb.TokenLogprob(token_id=9, logprob=-4, text=b"!"),
            top=[pb.TokenLogprob(token_id=2, logprob=-0.25, text=b"a")],
        )
    ],
    finish_reason=pb.FINISH_REASON_EOS,
)
OF_PROMPT = [
    None,
    {
        "9": {"logprob": -4.0, "rank": None, "decoded_token": "!"},
        "2": {"logprob": -0.25, "rank": 1, "decoded_token": "a"},
    },
]


def test_the_logprobs_of_a_chats_prompt_stand_beside_its_choices() -> None:
    body = whole_of(Answer(CHAT, "m", prompt_logprobs=True), {0: [PROMPT], 1: deltas_of(["y"])})
    assert body["prompt_logprobs"] == OF_PROMPT


def test_the_logprobs_of_a_completions_prompt_stand_in_each_of_its_choices() -> None:
    choices = {0: [PROMPT], 1: deltas_of(["y"]), 2: deltas_of(["z"]), 3: deltas_of(["z"])}
    body = whole_of(Answer(COMPLETION, "m", prompt_logprobs=True), choices, [pb.Usage(), pb.Usage()])
    assert [choice["prompt_logprobs"] for choice in body["choices"]] == [OF_PROMPT, OF_PROMPT, [None], [None]]


def whole_of(
    answer: Answer, choices: dict[int, list[pb.Delta]], usages: Sequence[pb.Usage] = (pb.Usage(),)
) -> dict[str, Any]:
    collected = {}
    for index, deltas in choices.items():
        collected[index] = CollectedChoice(answer)
        for delta in deltas:
            collected[index].add(delta)
    return dict(json.loads(answer.whole(collected, usages)))


OWL = "🦉".encode()
PIECES = [
    pb.TokenLogprobs(
        chosen=pb.TokenLogprob(token_id=1, logprob=-0.5, text=OWL[:2]),
        top=[pb.TokenLogprob(token_id=2, logprob=-0.25, text=b"a")],
    ),
    pb.TokenLogprobs(chosen=pb.TokenLogprob(token_id=3, logprob=-1, text=OWL[2:])),
    pb.TokenLogprobs(chosen=pb.TokenLogprob(token_id=4, logprob=float("-inf"), text=b"!")),
]


def test_a_part_of_a_character_keeps_its_bytes_in_a_chat() -> None:
    content = ChatLogprobs().of(PIECES)["content"]
    assert [token["token"] for token in content] == ["\\xf0\\x9f", "\\xa6\\x89", "!"]
    assert bytes(byte for token in content for byte in token["bytes"]).decode() == "🦉!"
    assert content[0]["top_logprobs"] == [{"token": "a", "logprob": -0.25, "bytes": [97]}]


def test_a_part_of_a_character_is_named_by_its_bytes_in_a_completion() -> None:
    told = CompletionLogprobs().of(PIECES)
    assert told["tokens"] == ["bytes:\\xf0\\x9f", "bytes:\\xa6\\x89", "!"]
    assert told["text_offset"] == [0, 0, 1]
    assert told["top_logprobs"][0] == {"a": -0.25, "bytes:\\xf0\\x9f": -0.5}


def test_what_cannot_be_has_the_least_logprob_that_json_can_say() -> None:
    assert CompletionLogprobs().of(PIECES)["token_logprobs"][-1] == -9999.0
    assert ChatLogprobs().of(PIECES)["content"][-1]["logprob"] == -9999.0


def test_a_prompts_first_token_follows_nothing() -> None:
    first = pb.TokenLogprobs(chosen=pb.TokenLogprob(token_id=1, logprob=UNKNOWN, text=b"Pages"))
    told = CompletionLogprobs().of([first, *PIECES])
    assert (told["tokens"][0], told["text_offset"][:2]) == ("Pages", [0, 5])
    assert told["token_logprobs"][0] is told["top_logprobs"][0] is None


def test_offsets_do_not_depend_on_how_tokens_come() -> None:
    logprobs = CompletionLogprobs()
    offsets = [offset for piece in PIECES for offset in logprobs.of([piece])["text_offset"]]
    assert offsets == CompletionLogprobs().of(PIECES)["text_offset"]
