"""A request that another engine began: what it had put out by then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from octavo.engine.errors import Violation
from octavo.engine.output import FinishReason

if TYPE_CHECKING:
    from collections.abc import Sequence as Tokens

    from octavo.engine.params import SamplingParams


@dataclass(frozen=True, slots=True)
class Resumption:
    """Output so far, as another engine told it.

    token_ids: every token that was told, in order.
    finish_reason: None if the output is to go on. Else it had ended with this reason, and the request is
        taken over only to be held, so that it can be continued.
    """

    token_ids: Tokens[int]
    finish_reason: FinishReason | None = None

    def violations(
        self,
        params: SamplingParams,
        *,
        stop_tokens: frozenset[int],
        room: int,
        hold: bool,
        vocab_size: int,
    ) -> list[Violation]:
        """Every rule that these tokens break, for valid parameters.

        room: tokens that the context has for output. Whether the text holds a stop string, and whether the
        output ends as it says, is for the assembler to check, which has the text.
        """
        found: list[Violation] = []
        ids, reason = self.token_ids, self.finish_reason

        def rule(holds: bool, field: str, value: object, text: str) -> None:
            if not holds:
                found.append(Violation(f"resume.{field}", value, text))

        if reason is not None:
            rule(hold, "finish_reason", reason.name, "must not be set without hold: nothing could follow")
            told = reason is not FinishReason.CANCELLED
            rule(told, "finish_reason", reason.name, "must not be CANCELLED: such a request is not held")
            rule(len(ids) > 0, "token_ids", [], "must not be empty with finish_reason set")
        unknown = next((at for at, token in enumerate(ids) if not 0 <= token < vocab_size), None)
        if unknown is not None:
            text = f"token ids must be in [0, {vocab_size})"
            rule(False, f"token_ids[{unknown}]", ids[unknown], text)
        most = room if params.max_tokens is None else min(room, params.max_tokens)
        if len(ids) >= most + (reason is not None):
            limit = "max_tokens" if most == params.max_tokens else "those that the context takes"
            text = f"must be at most {most}" if reason else f"must be fewer than {most}"
            unless = "" if reason else ", unless finish_reason is set"
            rule(False, "token_ids", f"{len(ids)} tokens", f"{text}, {limit}{unless}")
        last = len(ids) - 1
        end = next((at for at in range(params.min_tokens, last) if ids[at] in stop_tokens), None)
        if end is not None:
            text = f"must be the last: the output ends with token {ids[end]}"
            rule(False, f"token_ids[{end}]", ids[end], text)
        return found
