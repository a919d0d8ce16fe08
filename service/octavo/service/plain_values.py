"""Values that are what they look like, read without pydantic, which takes 60 ms to import.

A value that is read here is what pydantic would make of it; what may be wrong, or anything else, is left to
it.
"""

from __future__ import annotations

import re
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin


class Bounds(NamedTuple):
    """What a number must not be less or greater than, as a part of its type; pydantic's names."""

    ge: float | None = None
    le: float | None = None
    lt: float | None = None

    def hold(self, value: float) -> bool:
        return (
            (self.ge is None or value >= self.ge)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )


UNSURE = object()
"""Stands for a value that pydantic has to look at."""
TRUTHS = {"true": True, "false": False}
INTEGER = re.compile(r"[0-9]{1,15}")
NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")


def read(type_: Any, value: object) -> Any:
    """`value`, a text or already what it should be, as a str, bool, int, float or Literal; else UNSURE."""
    origin = get_origin(type_)
    if origin is Annotated:
        base, *rules = get_args(type_)
        found = read(base, value)
        sure = found is not UNSURE and all(isinstance(rule, Bounds) and rule.hold(found) for rule in rules)
        return found if sure else UNSURE
    if origin in (Union, UnionType):
        parts = [part for part in get_args(type_) if part is not NoneType]
        return read(parts[0], value) if len(parts) == 1 and value is not None else UNSURE
    if type_ is bool and isinstance(value, bool):
        return value
    if not isinstance(value, str):
        return UNSURE
    if type_ is str or (origin is Literal and value in get_args(type_)):
        return value
    if type_ is bool:
        return TRUTHS.get(value, UNSURE)
    if type_ is int and INTEGER.fullmatch(value):
        return int(value)
    if type_ is float and NUMBER.fullmatch(value):
        return float(value)
    return UNSURE
