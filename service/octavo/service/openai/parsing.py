"""Bodies as requests: what does not fit is told by the field's name, the value and the rule."""

from __future__ import annotations

import json
import reprlib
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from octavo.engine import InvalidRequest, Violation
from octavo.service.openai.errors import BODY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic_core import ErrorDetails

Model = TypeVar("Model", bound=BaseModel)

RULES = {
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "float_type": "must be a number",
    "int_type": "must be an integer",
    "list_type": "must be a list",
    "string_type": "must be a string",
}
"""What pydantic says otherwise, by its type of the error."""
MOST_TOLD = 10
LONGEST_NAME = 64
"""Characters of an unknown parameter's name; one that is longer is nobody's slip."""


class _Shown(str):
    """A value as it is shown in a message, cut to size."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def parse(model: type[Model], body: bytes) -> Model:
    """Raises InvalidRequest with what is wrong in the first few places."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False)
        if found[0]["type"] == "json_invalid":
            rule = found[0]["msg"].replace("Invalid JSON", "must be valid JSON")
            raise InvalidRequest(Violation(BODY, _Shown(f"{len(body)} bytes"), rule)) from None
    known = model.model_fields
    raise InvalidRequest(*(violation for one in found[:MOST_TOLD] for violation in _violations(one, known)))


def _violations(error: ErrorDetails, known: Iterable[str]) -> Iterator[Violation]:
    field = _path(error["loc"])
    raised = error.get("ctx", {}).get("error")
    if isinstance(raised, InvalidRequest):  # by a validator of ours
        for v in raised.violations:
            yield Violation(f"{field}{v.field}", _shown(v.value), v.rule)
        return
    match error["type"]:
        case "missing":
            yield Violation(field, None, "is required")
        case "extra_forbidden":
            name = str(error["loc"][-1])
            close = get_close_matches(name, known, n=1) if len(name) <= LONGEST_NAME else []
            hint = f"; did you mean {close[0]}?" if close else ""
            yield Violation(field, _shown(error["input"]), f"is no parameter of this request{hint}")
        case _:
            rule = RULES.get(error["type"]) or error["msg"].replace("Input should be", "must be")
            yield Violation(field or BODY, _shown(error["input"]), rule)


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step[:LONGEST_NAME]}"
    return path.removeprefix(".")


def _shown(value: object) -> object:
    """As JSON has it, cut to size before it is made: the value can be megabytes."""
    if isinstance(value, list | dict | str):
        return _Shown(reprlib.repr(value))
    return _Shown(json.dumps(value)) if value is None or isinstance(value, bool) else value
