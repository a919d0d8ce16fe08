"""Answers as JSON, apart from any server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.service.openai.answers import CHAT, COMPLETION, Answer, ChoiceWriter, CollectedChoice, Shape
from octavo.service.openai.logprobs import ChatLogprobs, CompletionLogprobs
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
    [choice] = json.loads(answer.whole([whole]))["choices"]
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


def test_offsets_do_not_depend_on_how_tokens_come() -> None:
    logprobs = CompletionLogprobs()
    offsets = [offset for piece in PIECES for offset in logprobs.of([piece])["text_offset"]]
    assert offsets == CompletionLogprobs().of(PIECES)["text_offset"]
