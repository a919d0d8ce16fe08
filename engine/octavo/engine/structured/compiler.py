"""From what requests ask for to compiled grammars, each compiled once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from octavo.engine.errors import InvalidRequest, Violation
from octavo.engine.structured.grammar import Grammar
from octavo.engine.structured.notation import NotationError, body_of, reason, serialized
from octavo.engine.structured.trial import Trial
from octavo.engine.structured.vocabulary import Vocabulary, library_tokenizer, strips_first_space

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    from octavo.engine.params import SamplingParams
    from octavo.engine.tokenizer import Tokenizer

MOST_KEPT = 256
"""Compiled grammars that are kept, those used last."""
MAX_STATES = 50_000
"""Of a grammar's automaton, some kilobytes each."""
HARMLESS = frozenset({"json_object", "choice"})
"""Structures whose grammars are ours, whatever is in them."""
NOUNS = {
    "json_schema": "a supported JSON schema",
    "json_object": "a JSON object",
    "regex": "a supported regular expression",
    "choice": "a list of texts",
    "grammar": "a grammar in Lark's notation",
}


@dataclass(frozen=True, slots=True)
class _Model:
    """What the library and we know of a model's vocabulary.

    strips_first_space: the text of an output lacks the space that its first token begins with.
    begins_with_space: bool [vocab_size].
    """

    vocabulary: Vocabulary
    library: LLTokenizer
    strips_first_space: bool
    begins_with_space: np.ndarray


class GrammarCompiler:
    """Compiles what requests ask for and keeps it. Called from several threads.

    vocab_size: of the model, whose ids above the tokenizer's are never allowed.
    eos_token_ids: the model's, which all may end a complete output.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_token_ids = tuple(token_id for token_id in eos_token_ids if token_id < vocab_size)
        self._kept: OrderedDict[object, Grammar] = OrderedDict()
        self._lock = threading.Lock()
        self._model: _Model | None = None
        self._learning = threading.Lock()
        self._trial = Trial()

    def compile(self, params: SamplingParams) -> Grammar:
        """The grammar of what `params` ask for, which must be something.

        The first call takes some hundred milliseconds more. Raises InvalidRequest with the field's name and
        why it cannot be served.
        """
        field = params.structure
        assert field is not None
        value = getattr(params, field)
        key = (field, value)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and not kept.failed:
                self._kept.move_to_end(key)
                return kept
        try:
            grammar = self._compile(field, params)
        except NotationError as error:
            raise InvalidRequest(Violation(field, value, str(error))) from error
        with self._lock:
            if (kept := self._kept.get(key)) is not None and not kept.failed:
                return kept  # another thread was faster
            self._kept[key] = grammar
            self._kept.move_to_end(key)
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return grammar

    def _compile(self, field: str, params: SamplingParams) -> Grammar:
        body = body_of(params)
        if not self._eos_token_ids:
            raise NotationError("must not be set: the model has no end-of-sequence token")
        if field not in HARMLESS and not self._trial.survives(serialized(body)):
            raise NotationError("must be simpler: compiling it takes too much time or memory")
        model = self._learn_vocabulary()
        if unspelt := [text for text in params.choice if not model.vocabulary.spells(text)]:
            raise NotationError(f"must not have {unspelt[0]!r}, for which the model has no tokens")
        start = self._matcher(model, field, serialized(body))
        allowed = self._first_mask(start, field)
        if model.strips_first_space:
            # So that the text is what the form says, though its first space be lost. Models with such
            # tokenizers mean a word to begin with it.
            before = '" "' if np.any(allowed & model.begins_with_space) else '" "?'
            start = self._matcher(model, field, serialized(body, before))
            self._first_mask(start, field)
        return Grammar(start, self._eos_token_ids)

    def _matcher(self, model: _Model, field: str, text: str) -> LLMatcher:
        from llguidance import LLMatcher

        matcher = LLMatcher(model.library, text, log_level=0, limits=_limits())
        if matcher.is_error():
            raise NotationError(f"must be {NOUNS[field]}: {reason(matcher.get_error())}")
        return matcher

    def _first_mask(self, start: LLMatcher, field: str) -> np.ndarray:
        """bool [vocab_size]; computing it also fills caches that later masks profit from."""
        probe = start.deep_copy()
        words = np.frombuffer(probe.compute_bitmask(), np.uint8)
        if probe.is_error():
            impossible = "NoExtension" in probe.get_error()
            why = "no output can be like that" if impossible else reason(probe.get_error())
            raise NotationError(f"must be {NOUNS[field]} that can be followed: {why}")
        return np.unpackbits(words, bitorder="little")[: self._vocab_size].astype(bool)

    def _learn_vocabulary(self) -> _Model:
        with self._learning:
            if self._model is None:
                vocabulary = Vocabulary(self._tokenizer, self._vocab_size, self._eos_token_ids)
                self._model = _Model(
                    vocabulary,
                    library_tokenizer(vocabulary, self._eos_token_ids),
                    strips_first_space(self._tokenizer),
                    np.array([token.startswith(b" ") for token in vocabulary.tokens]),
                )
            return self._model


def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(max_lexer_states=MAX_STATES, verbose_errors=False)
