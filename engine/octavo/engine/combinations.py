"""Which parameters make no sense together. What stands here is refused by name, never ignored."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from octavo.engine.errors import Violation

if TYPE_CHECKING:
    from octavo.engine.params import SamplingParams


@dataclass(frozen=True, slots=True)
class Clash:
    """Of these two parameters at most one may differ from its default. `why` follows `must not be set`."""

    field: str
    other: str
    why: str


@dataclass(frozen=True, slots=True)
class Need:
    """`field` may differ from its default only where `other` does."""

    field: str
    other: str


STRUCTURES = ("json_schema", "json_object", "regex", "choice", "grammar")
"""The parameters that say what form an output has."""
_DRAWING = ("temperature", "top_k", "top_p", "min_p", "seed")

CLASHES = (
    Clash("best_of", "beam_width", "a beam search keeps its best hypotheses by itself"),
    *(Clash(name, "beam_width", "a beam search draws nothing") for name in _DRAWING),
    Clash("stop", "beam_width", "a beam search has no text until it ends; use stop_token_ids"),
    Clash("logprobs", "beam_width", "hypotheses have a score instead"),
    Clash("repetition_pattern", "beam_width", "a beam search ends by its own rules"),
    Clash("thinking_budget", "beam_width", "the closing tag would not be a hypothesis' own"),
    *(Clash(name, "beam_width", "beams follow no grammar") for name in STRUCTURES),
    *(
        Clash(later, earlier, "an output has one form")
        for i, later in enumerate(STRUCTURES)
        for earlier in STRUCTURES[:i]
    ),
    *(
        Clash(field, structure, why)
        for structure in STRUCTURES
        for field, why in (
            ("min_tokens", "the form says when the output ends"),
            ("ignore_eos", "the form says when the output ends"),
            ("allowed_token_ids", "the form says which tokens are allowed, and both could leave none"),
            ("bad_words", "the form says which tokens are allowed, and both could leave none"),
        )
    ),
    Clash("allowed_token_ids", "bad_words", "both could leave no token"),
)
NEEDS = (
    Need("length_penalty", "beam_width"),
    Need("early_stopping", "beam_width"),
    Need("include_stop", "stop"),
    Need("repetition_count", "repetition_pattern"),
)


def clashes(params: SamplingParams) -> list[Violation]:
    """Every combination in these parameters that makes no sense."""
    given = {
        field.name: value
        for field in dataclasses.fields(params)
        if (value := getattr(params, field.name)) != _default(field)
    }
    if params.temperature == 0:
        del given["temperature"]  # nothing is drawn with it either
    found = [
        Violation(clash.field, given[clash.field], f"must not be set with {clash.other}: {clash.why}")
        for clash in CLASHES
        if clash.field in given and clash.other in given
    ]
    found += [
        Violation(need.field, given[need.field], f"must not be set without {need.other}")
        for need in NEEDS
        if need.field in given and need.other not in given
    ]
    return found


def _default(field: dataclasses.Field[Any]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
