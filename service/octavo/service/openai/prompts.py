"""What a completion goes on from: one prompt or several, each as text or as token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticCustomError

from octavo.engine import InvalidRequest, Violation
from octavo.v1 import inference_pb2 as pb

MAX_PROMPTS = 256
"""Most prompts of one request: as many as may wait in an engine by default."""
RULE = "must be a string, a list of strings, a list of token ids, or a list of lists of token ids"


@dataclass(frozen=True, slots=True)
class Entry:
    """One prompt, and where it stands in the request: `prompt`, or `prompt[3]` of several."""

    path: str
    content: str | list[int]

    def to_proto(self) -> pb.Prompt:
        if isinstance(self.content, str):
            return pb.Prompt(text=self.content)
        return pb.Prompt(token_ids=pb.TokenIds(ids=self.content))


def entries(value: Any) -> tuple[Entry, ...]:
    """The prompts of a request. Raises what pydantic takes from a validator."""
    if isinstance(value, str):
        return (Entry("prompt", value),)
    if not isinstance(value, list):
        raise PydanticCustomError("prompt", RULE)
    if not value:
        raise PydanticCustomError("prompt", "must not be empty")
    if type(value[0]) is int:
        return (Entry("prompt", _token_ids("", value)),)
    if len(value) > MAX_PROMPTS:
        raise PydanticCustomError("prompt", f"must have at most {MAX_PROMPTS} entries")
    if all(isinstance(entry, str) for entry in value):
        return tuple(Entry(f"prompt[{i}]", entry) for i, entry in enumerate(value))
    if all(isinstance(entry, list) for entry in value):
        return tuple(Entry(f"prompt[{i}]", _token_ids(f"[{i}]", ids)) for i, ids in enumerate(value))
    raise PydanticCustomError("prompt", RULE)


def _token_ids(path: str, ids: list[Any]) -> list[int]:
    for i, token in enumerate(ids):
        if type(token) is not int or not 0 <= token < 2**32:
            raise InvalidRequest(Violation(f"{path}[{i}]", token, "must be a token id"))
    return ids
