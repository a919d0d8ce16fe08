"""From the tokens of one output to its deltas: text and reasoning, stop strings, usage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.engine.detokenizer import Detokenizer
from octavo.engine.errors import InvalidRequest, Violation
from octavo.engine.output import Delta, FinishReason, TokenLogprobs, Usage
from octavo.engine.thinking import Thinking

if TYPE_CHECKING:
    from collections.abc import Sequence as Rows

    from octavo.engine.decoding import NewToken
    from octavo.engine.resumption import Resumption
    from octavo.engine.sequence import Sequence
    from octavo.engine.tokenizer import Tokenizer


class Assembler:
    """Keeps what of one output is final so far.

    token_ids: all of the output that deltas have told, here or where the request was begun.
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
        self._reasonings: list[str] = []
        self._sequence = sequence
        self._parts = _Parts(sequence, tokenizer)
        self._untold = self._parts.echo() if sequence.params.echo else ""
        if resume is not None and len(resume.token_ids):
            self._replay(resume)

    @property
    def text(self) -> str:
        """As `token_ids`, of the answer; with `echo` it begins with the prompt's."""
        return "".join(self._texts)

    @property
    def reasoning(self) -> str:
        """As `text`, of what was thought before."""
        return "".join(self._reasonings)

    @property
    def usage(self) -> Usage:
        """Of this output alone."""
        sequence = self._sequence
        return Usage(sequence.num_prompt_tokens, len(self.token_ids), sequence.num_cached_tokens or 0)

    def take(self, new_tokens: Rows[NewToken], end: FinishReason | None = None) -> Delta:
        """The delta of these tokens. With `end` the output ends here, unless a token ended it before."""
        ids = [new.token_id for new in new_tokens]
        before = self._parts.num_tokens
        text, reasoning, reason = self._speak(ids, new_tokens[-1].finish_reason if new_tokens else None, end)
        if self._parts.stopped:
            new_tokens = new_tokens[: max(self._parts.num_tokens - before, 0)]
            ids = ids[: len(new_tokens)]
        text, self._untold = self._untold + text, ""
        score = new_tokens[-1].score if new_tokens else None
        logprobs = tuple(new.logprobs for new in new_tokens if new.logprobs is not None)
        self.logprobs += logprobs
        self._keep(ids, text, reasoning, reason)
        return Delta(
            text=text,
            token_ids=tuple(ids),
            usage=self.usage,
            logprobs=logprobs,
            finish_reason=reason,
            index=self._sequence.index,
            reasoning=reasoning,
            score=score,
        )

    def _keep(self, ids: list[int], text: str, reasoning: str, reason: FinishReason | None) -> None:
        self.token_ids += ids
        self._texts.append(text)
        self._reasonings.append(reasoning)
        self.finish_reason = reason

    def _speak(
        self, ids: list[int], by_token: FinishReason | None, end: FinishReason | None
    ) -> tuple[str, str, FinishReason | None]:
        """Text and reasoning of these tokens, and how the output ends there.

        by_token: how it ends by the last of them; end: how it ends otherwise. A stop string goes before both.
        """
        # A token that ends the sequence is one of its tokens, but not text.
        spoken = ids[:-1] if by_token in (FinishReason.EOS, FinishReason.STOP) else ids
        text, reasoning = self._parts.push(spoken)
        reason = by_token or end
        if reason is not None:
            last_text, last_reasoning = self._parts.flush()
            text, reasoning = text + last_text, reasoning + last_reasoning
        return text, reasoning, FinishReason.STOP if self._parts.stopped else reason

    def _replay(self, resume: Resumption) -> None:
        """Says to nobody what was told elsewhere: the text that follows joins on, and none comes twice."""
        ids, told = list(resume.token_ids), resume.finish_reason
        # The other engine may have had a shorter context: of all reasons this one need not show in tokens.
        end = FinishReason.LENGTH if told is not None else None
        text, reasoning, reason = self._speak(ids, self._sequence.end, end)
        if self._parts.stopped and self._parts.num_tokens < len(ids):
            after = self._parts.num_tokens
            rule = "must not be there: the output ends by a stop string before it"
            raise InvalidRequest(Violation(f"resume.token_ids[{after}]", ids[after], rule))
        if told not in (None, reason):
            assert told is not None
            assert reason is not None
            rule = f"must be how the output ends, which is {reason.name}"
            raise InvalidRequest(Violation("resume.finish_reason", told.name, rule))
        text, self._untold = self._untold + text, ""
        self._keep(ids, text, reasoning, reason)


class _Parts:
    """The text of one output, parted into answer and reasoning for a model that thinks between tags.

    The tags are in neither, nor are the newlines directly after a tag, also where the prompt ends with it,
    or between the output's beginning and its first tag. The tokens of each part are decoded by themselves.
    Stop strings end the answer only.

    num_tokens: token ids consumed; when stopped, the last of them is the one with which the stop string
        was sure: it may be the one after newlines that might have stood before a tag.
    """

    def __init__(self, sequence: Sequence, tokenizer: Tokenizer) -> None:
        self._sequence = sequence
        params, tags = sequence.params, tokenizer.think_tags
        self._answer = Detokenizer(tokenizer, params.stop, include_stop=params.include_stop)
        self._thoughts = Detokenizer(tokenizer)
        self._thinking = Thinking(tags, self._prompt) if tags is not None else None
        self._held: list[int] = []  # newlines that a tag may follow
        self.num_tokens = 0
        if self._thinking is not None and self._thinking.after_tag:
            self._part.skip_newlines()

    @property
    def _prompt(self) -> Rows[int]:
        return self._sequence.token_ids[: self._sequence.num_prompt_tokens]

    @property
    def _part(self) -> Detokenizer:
        """The one that the next token belongs to."""
        return self._thoughts if self._thinking is not None and self._thinking.thinking else self._answer

    @property
    def stopped(self) -> bool:
        return self._answer.stopped

    def echo(self) -> str:
        """The prompt's text, before anything else."""
        return self._answer.echo(self._prompt)

    def push(self, token_ids: list[int]) -> tuple[str, str]:
        """The text and the reasoning that are sure now."""
        if self._thinking is None:
            text = self._answer.push(token_ids)
            self.num_tokens = self._answer.num_tokens
            return text, ""
        texts: list[str] = []
        reasonings: list[str] = []
        for token_id in token_ids:
            if self.stopped:
                break
            self.num_tokens += 1
            if self._thinking.advance(token_id):
                self._held = []
                reasonings.append(self._thoughts.flush())
                self._part.skip_newlines()
                continue
            self._held.append(token_id)
            if not self._thinking.fresh:
                (reasonings if self._thinking.thinking else texts).append(self._release())
        return "".join(texts), "".join(reasonings)

    def flush(self) -> tuple[str, str]:
        """What was held back, at the end."""
        thinks = self._part is self._thoughts
        released = self._release()
        text, reasoning = ("", released) if thinks else (released, "")
        return text + self._answer.flush(), reasoning + self._thoughts.flush()

    def _release(self) -> str:
        held, self._held = self._held, []
        return self._part.push(held)
