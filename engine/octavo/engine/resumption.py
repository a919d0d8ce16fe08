"""A request that another engine began: what it had put out by then."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    outputs: of a request with several outputs, one entry for each instead: its own tokens, and how it had
        ended if it had; then it is not told again.
    """

    token_ids: Tokens[int] = ()
    finish_reason: FinishReason | None = None
    outputs: tuple[Resumption, ...] = ()

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
        if params.num_sequences > 1:
            return self._violations_of_outputs(params, stop_tokens, room, vocab_size)
        if self.outputs:
            rule = "must not be set for a request of one output"
            return [Violation("resume.outputs", f"{len(self.outputs)} outputs", rule)]
        return self._violations_of_tokens(params, stop_tokens, room, hold, vocab_size)

    def _violations_of_outputs(
        self, params: SamplingParams, stop_tokens: frozenset[int], room: int, vocab_size: int
    ) -> list[Violation]:
        found: list[Violation] = []
        if params.beam_width or params.best_of:
            rule = "must not be set where outputs are told when all have ended: ask for all of it again"
            return [Violation("resume", f"{len(self.outputs)} outputs", rule)]
        if len(self.outputs) != params.n:
            rule = f"must have an entry for each of the {params.n} outputs"
            return [Violation("resume.outputs", f"{len(self.outputs)} outputs", rule)]
        if self.token_ids or self.finish_reason is not None:
            rule = "must be empty for a request of several outputs: each has its own, in outputs"
            found.append(Violation("resume.token_ids", f"{len(self.token_ids)} tokens", rule))
        if all(output.finish_reason is not None for output in self.outputs):
            rule = "must have one that is to go on"
            found.append(Violation("resume.outputs", f"{params.n} outputs that have ended", rule))
        for index, output in enumerate(self.outputs):
            if output.finish_reason is None:
                wrong = output._violations_of_tokens(params, stop_tokens, room, False, vocab_size)
                place = f"resume.outputs[{index}]"
                found += [replace(v, field=v.field.replace("resume", place, 1)) for v in wrong]
        return found

    def _violations_of_tokens(
        self,
        params: SamplingParams,
        stop_tokens: frozenset[int],
        room: int,
        hold: bool,
        vocab_size: int,
    ) -> list[Violation]:
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
