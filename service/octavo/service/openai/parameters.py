"""Kinds of parameters: those that work, those that need not, and those that are refused by name."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError, core_schema

from octavo.engine import InvalidRequest, Violation

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler

MOST_KEYS = 200
"""Of an object; no request has so many parameters."""
TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")
LONGEST_KEY = 64
"""Characters that are shown of a key that is none."""


class Strict(BaseModel):
    """A JSON object without unknown keys, in which a number is no string and no number is infinite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _not_made_to_be_long(cls, value: object) -> object:
        # pydantic makes a report on each unknown key, which takes seconds for a body full of them.
        if isinstance(value, dict) and len(value) > MOST_KEYS:
            raise PydanticCustomError("keys", f"must have at most {MOST_KEYS} keys")
        return value


@dataclass(frozen=True, slots=True)
class WithoutEffect:
    """Marks a parameter that is taken and changes nothing in the output. `why` is for the documentation."""

    why: str


class Only:
    """Marks a parameter that is not supported: taken are null and the values that ask for nothing."""

    def __init__(self, *neutral: object) -> None:
        self.neutral = neutral

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def _check(self, value: object) -> object:
        # Not by == alone: True is 1.
        if value is None or any(type(value) is type(same) and value == same for same in self.neutral):
            return None
        rule = "is not supported yet; leave it out"
        if self.neutral:
            rule += f", or give {' or '.join(map(json.dumps, self.neutral))}"
        raise PydanticCustomError("unsupported", rule)


def _string_or_list(value: object) -> object:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return value
    raise PydanticCustomError("string_or_list", "must be a string or a list of strings")


def _by_token_id(value: object) -> object:
    """Keys as numbers, which in JSON are strings. The first bad entry is told, for there can be many."""
    if not isinstance(value, dict):
        return value
    for key, bias in value.items():
        if not TOKEN_ID.fullmatch(key) or int(key) >= 2**32:
            raise InvalidRequest(Violation(f".{key[:LONGEST_KEY]}", bias, "must be for a token id"))
        if type(bias) not in (int, float):
            raise InvalidRequest(Violation(f".{key}", bias, "must be a number"))
    return {int(key): bias for key, bias in value.items()}


def _early_stopping(value: object) -> object:
    """As Transformers and vLLM have it, and as the protocol does."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value in ("yes", "no", "never"):
        return value
    raise PydanticCustomError("early_stopping", 'must be true, false or "never"')


Unsupported = Annotated[object, Only()]
Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
# OpenAI's seed is a signed 64-bit integer, the protocol's an unsigned one; both ranges are taken.
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
TokenId = Annotated[int, Field(ge=0, lt=2**32)]
# The first bad entry is told; a report on each of a million would take seconds to make.
TokenIds = Annotated[list[TokenId], Field(fail_fast=True)]
Strings = Annotated[list[str], BeforeValidator(_string_or_list)]
Biases = Annotated[dict[int, float], BeforeValidator(_by_token_id)]
EarlyStopping = Annotated[str, BeforeValidator(_early_stopping)]
