"""Reading messages strictly."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.engine import InvalidRequest
from octavo.service.rpc.wire import parse
from octavo.v1 import inference_pb2 as pb


def test_a_valid_message_is_itself() -> None:
    message = pb.GenerateRequest(model="a", prompt=pb.Prompt(text="ü"), priority=-3)
    assert parse(pb.GenerateRequest, message.SerializeToString()) == message


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.GenerateRequest(model="BROKEN"), "model"),
        (pb.GenerateRequest(prompt=pb.Prompt(text="BROKEN")), "prompt.text"),
        (
            pb.GenerateRequest(sampling=pb.SamplingParams(seed=9, top_p=0.5, stop=["a", "BROKEN"])),
            "sampling.stop[1]",
        ),
    ],
)
def test_invalid_utf8_is_found_after_fields_of_every_kind(message: pb.GenerateRequest, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(pb.GenerateRequest, message.SerializeToString().replace(b"BROKEN", b"\xff\xfe\xfd\xfc\xfb\xfa"))
    assert caught.value.violations[0].field == field


def test_unknown_fields_are_found_in_repeated_messages() -> None:
    message = pb.ChatMessage.FromString(pb.ChatMessage(role="user").SerializeToString() + b"\x58\x01")
    request = pb.GenerateRequest(prompt=pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(), message])))
    with pytest.raises(InvalidRequest, match=r"prompt.chat.messages\[1\]: field number 11 of octavo.v1.Chat"):
        parse(pb.GenerateRequest, request.SerializeToString())


def test_unknown_enum_values_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"finish_reason: must be a value of octavo.v1.FinishReason"):
        parse(pb.Delta, pb.Delta(finish_reason=99).SerializeToString())


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.GenerateRequest(sampling=pb.SamplingParams(early_stopping=99)), "sampling.early_stopping"),
        (pb.GenerateRequest(resume=pb.Resumption(finish_reason=99)), "resume.finish_reason"),
        (
            pb.GenerateRequest(resume=pb.Resumption(outputs=[{}, {"finish_reason": 99}])),
            "resume.outputs[1].finish_reason",
        ),
    ],
)
def test_unknown_enum_values_are_found_inside_other_messages(message: pb.GenerateRequest, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(pb.GenerateRequest, message.SerializeToString())
    assert caught.value.violations[0].field == field


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_are_refused(data: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        assert isinstance(parse(pb.SessionRequest, data), pb.SessionRequest)
