"""What limits the tokens of a request beside its numbers: words, forms, thinking. Compiled once each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from octavo.engine.bad_words import BadWords, bad_word_ids
from octavo.engine.errors import InvalidRequest, Violation
from octavo.engine.masks import mask_of
from octavo.engine.structured import GrammarCompiler
from octavo.engine.thinking import Thinking

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from octavo.engine.info import ModelInfo
    from octavo.engine.params import SamplingParams
    from octavo.engine.structured import Grammar, Matcher
    from octavo.engine.thinking import ThinkTags
    from octavo.engine.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Constraints:
    """What of a request's parameters takes a tokenizer or a compiler to understand.

    tags: of the model, where what is thought between them counts.
    allowed: `allowed_token_ids` as a mask.
    """

    bad_words: BadWords | None = None
    grammar: Grammar | None = None
    tags: ThinkTags | None = None
    allowed: np.ndarray | None = None

    def of_sequence(self, params: SamplingParams, token_ids: Sequence[int]) -> Constraint | None:
        """For one output after the prompt `token_ids`; None where every token may always come."""
        if self.grammar is None and self.allowed is None and params.thinking_budget is None:
            return None
        thinking = Thinking(self.tags, token_ids) if self.tags is not None else None
        return Constraint(self, params, thinking)


NONE = Constraints()


class ConstraintCompiler:
    """Thread-safe. Grammars that were compiled before cost nothing."""

    def __init__(self, tokenizer: Tokenizer, model: ModelInfo) -> None:
        self._tokenizer = tokenizer
        self._model = model
        self._grammars = GrammarCompiler(tokenizer, model.vocab_size, model.eos_token_ids)

    @staticmethod
    def is_needed(params: SamplingParams) -> bool:
        return (
            bool(params.bad_words or params.structure or params.allowed_token_ids)
            or params.thinking_budget is not None
        )

    def compile(self, params: SamplingParams) -> Constraints:
        """It can take a second. InvalidRequest for what is not valid, and for a grammar that is none."""
        if not self.is_needed(params):
            return NONE
        params.validate(self._model.vocab_size)
        tags = self._tokenizer.think_tags
        if params.thinking_budget is not None and tags is None:
            rule = f"must not be set: {self._model.name} has no tags to think between"
            raise InvalidRequest(Violation("thinking_budget", params.thinking_budget, rule))
        vocab_size = self._model.vocab_size
        bad_words = bad_word_ids(self._tokenizer, params.bad_words)
        return Constraints(
            bad_words=BadWords(bad_words) if bad_words else None,
            grammar=self._grammars.compile(params) if params.structure else None,
            tags=tags,
            allowed=mask_of(params.allowed_token_ids, vocab_size) if params.allowed_token_ids else None,
        )


class Constraint:
    """What limits the next token of one output. A form is that of the answer: it begins after thinking.

    allowed: the mask of `allowed_token_ids`.
    """

    def __init__(self, constraints: Constraints, params: SamplingParams, thinking: Thinking | None) -> None:
        self._budget = params.thinking_budget
        self._jumps = params.logprobs is None
        self.allowed = constraints.allowed
        self._thinking = thinking
        self._matcher = constraints.grammar.matcher() if constraints.grammar is not None else None
        self._tags = constraints.tags
        self._begun = False

    @property
    def closes(self) -> int | None:
        """The token that must come: the closing tag, when the budget of thinking is used up."""
        if self._thinking is None or self._tags is None or not self._thinking.must_close(self._budget):
            return None
        return self._tags.close_id

    @property
    def opens(self) -> int | None:
        """The token that may come beside those of the form: the opening tag, at the very beginning of an
        output that is not thinking yet."""
        thinking = self._thinking
        if self._begun or thinking is None or thinking.after_tag or self._tags is None:
            return None
        return None if thinking.thinking else self._tags.open_id

    @property
    def matcher(self) -> Matcher | None:
        """Of the form, where it has begun."""
        return None if self._thinking is not None and self._thinking.thinking else self._matcher

    @property
    def may_guess(self) -> bool:
        """Whether any token may come next, so that guesses are worth computing."""
        return self._matcher is None and self.allowed is None and self.closes is None

    def accept(self, token_id: int) -> None:
        """A token was chosen."""
        self._begun = True
        matcher = self.matcher
        is_tag = self._thinking is not None and self._thinking.advance(token_id)
        if matcher is not None and not is_tag:
            matcher.accept(token_id)

    def forced(self) -> list[int]:
        """Tokens that must come next, of which nothing is told but themselves."""
        matcher = self.matcher
        return matcher.forced() if matcher is not None and self._jumps else []
