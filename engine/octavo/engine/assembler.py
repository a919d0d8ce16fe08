"""From the tokens of one sequence to its deltas: text, stop strings, usage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.engine.detokenizer import Detokenizer
from octavo.engine.errors import InvalidRequest, Violation
from octavo.engine.output import Delta, FinishReason, TokenLogprobs, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence as Rows

    from octavo.engine.engine import NewToken
    from octavo.engine.resumption import Resumption
    from octavo.engine.sequence import Sequence
    from octavo.engine.tokenizer import Tokenizer


class Assembler:
    """Keeps what of a sequence's output is final so far.

    token_ids, text: all of the output that deltas have told, here or where the request was begun.
    logprobs: of the tokens that deltas have told here.
    finish_reason: None until the last delta; known from the start if a resumed output has ended already.
        A stop string ends the output here, where the text is; whoever feeds this then tells the engine,
        which may have drawn further tokens that nobody sees.
    """

    def __init__(self, sequence: Sequence, tokenizer: Tokenizer, resume: Resumption | None = None) -> None:
        """resume: what `sequence` was made with. InvalidRequest if its text does not end as it says."""
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprobs] = []
        self.finish_reason: FinishReason | None = None
        self._texts: list[str] = []
        self._sequence = sequence
        self._detokenizer = Detokenizer(tokenizer, sequence.params.stop)
        if resume is not None and len(resume.token_ids):
            self._replay(resume)

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def usage(self) -> Usage:
        sequence = self._sequence
        return Usage(sequence.num_prompt_tokens, len(self.token_ids), sequence.num_cached_tokens or 0)

    def take(self, new_tokens: Rows[NewToken], end: FinishReason | None = None) -> Delta:
        """The delta of these tokens. With `end` the output ends here, unless a token ended it before."""
        ids = [new.token_id for new in new_tokens]
        before = self._detokenizer.num_tokens
        text, reason = self._speak(ids, new_tokens[-1].finish_reason if new_tokens else None, end)
        if self._detokenizer.stopped:
            new_tokens = new_tokens[: max(self._detokenizer.num_tokens - before, 0)]
            ids = ids[: len(new_tokens)]
        logprobs = tuple(new.logprobs for new in new_tokens if new.logprobs is not None)
        self.token_ids += ids
        self._texts.append(text)
        self.logprobs += logprobs
        self.finish_reason = reason
        return Delta(text, tuple(ids), self.usage, logprobs, reason)

    def _speak(
        self, ids: list[int], by_token: FinishReason | None, end: FinishReason | None
    ) -> tuple[str, FinishReason | None]:
        """The text of these tokens, and how the output ends there.

        by_token: how it ends by the last of them; end: how it ends otherwise. A stop string goes before both.
        """
        # A token that ends the sequence is one of its tokens, but not text.
        spoken = ids[:-1] if by_token in (FinishReason.EOS, FinishReason.STOP) else ids
        text = self._detokenizer.push(spoken)
        reason = by_token or end
        if reason is not None:
            text += self._detokenizer.flush()
        return text, FinishReason.STOP if self._detokenizer.stopped else reason

    def _replay(self, resume: Resumption) -> None:
        """Says to nobody what was told elsewhere: the text that follows joins on, and none comes twice."""
        ids, told = list(resume.token_ids), resume.finish_reason
        # The other engine may have had a shorter context: of all reasons this one need not show in tokens.
        end = FinishReason.LENGTH if told is not None else None
        text, reason = self._speak(ids, self._sequence.end, end)
        if self._detokenizer.stopped and self._detokenizer.num_tokens < len(ids):
            after = self._detokenizer.num_tokens
            rule = "must not be there: the output ends by a stop string before it"
            raise InvalidRequest(Violation(f"resume.token_ids[{after}]", ids[after], rule))
        if told not in (None, reason):
            assert told is not None
            assert reason is not None
            rule = f"must be how the output ends, which is {reason.name}"
            raise InvalidRequest(Violation("resume.finish_reason", told.name, rule))
        self.token_ids += ids
        self._texts.append(text)
        self.finish_reason = reason
