"""From the tokens of one sequence to its deltas: text, stop strings, usage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.engine.detokenizer import Detokenizer
from octavo.engine.output import Delta, FinishReason, TokenLogprobs, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence as Rows

    from octavo.engine.engine import NewToken
    from octavo.engine.sequence import Sequence
    from octavo.engine.tokenizer import Tokenizer


class Assembler:
    """Keeps what of a sequence's output is final so far.

    token_ids, text, logprobs: all of the output that deltas have told.
    finish_reason: None until the last delta. A stop string ends the output here, where the text is; whoever
        feeds this then tells the engine, which may have drawn further tokens that nobody sees.
    """

    def __init__(self, sequence: Sequence, tokenizer: Tokenizer) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprobs] = []
        self.finish_reason: FinishReason | None = None
        self._texts: list[str] = []
        self._sequence = sequence
        self._detokenizer = Detokenizer(tokenizer, sequence.params.stop)

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def usage(self) -> Usage:
        sequence = self._sequence
        return Usage(sequence.num_prompt_tokens, len(self.token_ids), sequence.num_cached_tokens or 0)

    def take(self, new_tokens: Rows[NewToken], end: FinishReason | None = None) -> Delta:
        """The delta of these tokens. With `end` the output ends here, unless a token ended it before."""
        reason = new_tokens[-1].finish_reason if new_tokens else None
        ids = [new.token_id for new in new_tokens]
        # A token that ends the sequence is one of its tokens, but not text.
        spoken = ids[:-1] if reason in (FinishReason.EOS, FinishReason.STOP) else ids
        before = self._detokenizer.num_tokens
        text = self._detokenizer.push(spoken)
        reason = reason or end
        if reason is not None:
            text += self._detokenizer.flush()
        if self._detokenizer.stopped:
            reason = FinishReason.STOP
            new_tokens = new_tokens[: max(self._detokenizer.num_tokens - before, 0)]
            ids = ids[: len(new_tokens)]
        logprobs = tuple(new.logprobs for new in new_tokens if new.logprobs is not None)
        self.token_ids += ids
        self._texts.append(text)
        self.logprobs += logprobs
        self.finish_reason = reason
        return Delta(text, tuple(ids), self.usage, logprobs, reason)
