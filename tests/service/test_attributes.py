"""What a span says of the sampling parameters that a request has."""

from __future__ import annotations

from octavo.service.rpc.sampling import message_of
from octavo.service.telemetry.attributes import of_request
from octavo.v1 import inference_pb2 as pb


def attributes(**sampling: object) -> dict[str, object]:
    return dict(of_request("", pb.Prompt(text="Hello"), message_of(sampling)))


def test_what_was_set_is_told_by_its_name() -> None:
    told = attributes(n=3, beam_width=4, early_stopping="never", seed=2**64 - 1, stop=("a", "b"))
    assert told["gen_ai.request.choice.count"] == 3
    assert told["octavo.request.beam_width"] == 4
    assert told["octavo.request.early_stopping"] == "never"
    assert told["gen_ai.request.seed"] == str(2**64 - 1)
    assert told["gen_ai.request.stop_sequences"] == ["a", "b"]
    assert "gen_ai.output.type" not in told


def test_a_form_is_told_by_its_kind_and_not_by_what_it_says() -> None:
    told = attributes(json_schema='{"const": "a secret"}')
    assert (told["octavo.request.structure"], told["gen_ai.output.type"]) == ("json_schema", "json")
    assert "secret" not in str(told)
    told = attributes(choice=("a secret",), bad_words=("secrets",))
    assert (told["octavo.request.structure"], told["gen_ai.output.type"]) == ("choice", "text")
    assert "secret" not in str(told)
