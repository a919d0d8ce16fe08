"""Sampling parameters between the protocol and the engine, which have them under the same names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo.engine import InvalidRequest, Violation
from octavo.engine.combinations import STRUCTURES
from octavo.v1 import inference_pb2 as pb

EARLY_STOPPING: Mapping[pb.EarlyStopping, str] = {
    pb.EARLY_STOPPING_NO: "no",
    pb.EARLY_STOPPING_YES: "yes",
    pb.EARLY_STOPPING_NEVER: "never",
}
_EARLY_STOPPING_VALUES = {word: value for value, word in EARLY_STOPPING.items()}


def values_of(message: pb.SamplingParams) -> dict[str, Any]:
    """What is set, as arguments of the engine's SamplingParams. InvalidRequest for what asks for nothing."""
    return {field.name: _value(field.name, value) for field, value in message.ListFields()}


def _value(name: str, value: Any) -> Any:
    if name == "early_stopping":
        return EARLY_STOPPING[value]
    if name == "choice":
        if not value.texts:
            raise InvalidRequest(Violation(name, [], "must not be empty"))
        return tuple(value.texts)
    if isinstance(value, Mapping):
        return dict(value)
    return value if isinstance(value, str | int | float) else tuple(value)


def message_of(values: Mapping[str, Any]) -> pb.SamplingParams:
    """A message in which these are set; None is the same as nothing.

    InvalidRequest for more than one form, as the message has room for one. ValueError for a number that does
    not fit its field.
    """
    given = {name: value for name, value in values.items() if value is not None}
    forms = [name for name in STRUCTURES if given.get(name)]
    if len(forms) > 1:
        rule = f"must not be set with {forms[0]}: an output has one form"
        raise InvalidRequest(Violation(forms[1], given[forms[1]], rule))
    message = pb.SamplingParams()
    for name, value in given.items():
        match value:
            case Mapping():
                getattr(message, name).update(value)
            case _ if name == "choice":
                message.choice.SetInParent()
                message.choice.texts.extend(value)
            case _ if name == "early_stopping":
                message.early_stopping = _EARLY_STOPPING_VALUES[value]
            case tuple() | list():
                getattr(message, name).extend(value)
            case _:
                setattr(message, name, value)
    return message
