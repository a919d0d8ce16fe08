"""How the next token is chosen and when a sequence ends."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from octavo.engine.combinations import STRUCTURES, clashes
from octavo.engine.errors import InvalidRequest, Violation

if TYPE_CHECKING:
    from collections.abc import Mapping

EarlyStopping = Literal["yes", "no", "never"]

MAX_OUTPUTS = 128
MAX_BEAMS = 32
MAX_STOP_STRINGS = 16
MAX_STRING_LENGTH = 256
MAX_BAD_WORDS = 256
MAX_LOGIT_BIASES = 1024
MAX_LOGPROBS = 20
MAX_PATTERN = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampling and stopping of one request. The defaults are the model's plain distribution.

    n: outputs of the request. The prompt is computed once and its blocks are shared; output i draws with a
        seed of its own, derived from `seed` and i.
    best_of: make this many outputs and keep the n of the highest mean log-probability; n if None.
    beam_width: beams of a beam search, which finds likely outputs instead of drawing some; 0 for none.
        Outputs are the n best hypotheses and come at the end.
    length_penalty: of a beam search: hypotheses are ranked by log-probability / length ** this.
    early_stopping: of a beam search: `yes` ends it with beam_width finished hypotheses; `no` when a better
        one is unlikely; `never` when none can be better.
    max_tokens: most output tokens; up to the context length if None.
    min_tokens: no end-of-sequence and no stop token before this many output tokens.
    temperature: 0 is greedy; logits are divided by it otherwise.
    top_k: keep the k likeliest tokens; 0 keeps all.
    top_p: keep the likeliest tokens that together reach this probability (Holtzman et al., 2020); 1 keeps
        all.
    min_p: drop tokens under this share of the likeliest one's probability (Nguyen et al., 2024); 0 drops
        none.
    seed: key of the random draws; drawn at random if None.
    repetition_penalty: divides positive and multiplies negative logits of tokens seen in prompt or output
        (Keskar et al., 2019); 1 is off.
    frequency_penalty, presence_penalty: subtracted per occurrence, and once, for tokens seen in the output; 0
        is off.
    logit_bias: added to the logits of single tokens, by token id.
    allowed_token_ids: the only tokens that may be chosen; all if empty.
    bad_words: texts that the output never has, however they are made of tokens at the start of a word or
        within one.
    stop: the output ends before the first of these strings, which is not part of it.
    include_stop: the stop string that ended the output is part of it.
    stop_token_ids: the output ends with the first of these, as with the model's end-of-sequence.
    ignore_eos: do not end at the model's end-of-sequence tokens.
    repetition_pattern: the output ends when it repeats a pattern of at most this many tokens; 0 is off.
    repetition_count: how many times in a row a pattern must stand for that.
    thinking_budget: most tokens of thinking, for a model that thinks between tags; then the closing tag is
        put. None for no limit.
    json_schema: the output is JSON of this schema, given as JSON itself.
    json_object: the output is a JSON object.
    regex: the output matches this regular expression as a whole.
    choice: the output is one of these texts.
    grammar: the output follows this context-free grammar, in Lark's notation.
    logprobs: None for none, else this many of the likeliest tokens beside the chosen one (0: the chosen one
        only); natural logarithms, before temperature, penalties and cuts.
    prompt_logprobs: the same for each token of the prompt but the first. The prompt is computed as a whole
        for it, whatever of it is cached.
    echo: the output's text begins with the prompt's.
    """

    n: int = 1
    best_of: int | None = None
    beam_width: int = 0
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = "no"
    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    allowed_token_ids: tuple[int, ...] = ()
    bad_words: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    repetition_pattern: int = 0
    repetition_count: int = 4
    thinking_budget: int | None = None
    json_schema: str | None = None
    json_object: bool = False
    regex: str | None = None
    choice: tuple[str, ...] = ()
    grammar: str | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    echo: bool = False

    @property
    def has_penalties(self) -> bool:
        return (self.repetition_penalty, self.frequency_penalty, self.presence_penalty) != (1.0, 0.0, 0.0)

    @property
    def structure(self) -> str | None:
        """The parameter that says what form the output has, if one does."""
        return next((name for name in STRUCTURES if getattr(self, name) not in (None, False, ())), None)

    @property
    def num_sequences(self) -> int:
        """Sequences that the request is computed as."""
        return self.beam_width or self.best_of or self.n

    def violations(self, vocab_size: int) -> list[Violation]:
        """Every rule that these parameters break, for a model of `vocab_size` tokens."""
        found: list[Violation] = []

        def rule(field: str, holds: bool, text: str) -> None:
            if not holds:
                found.append(Violation(field, getattr(self, field), text))

        rule("n", 1 <= self.n <= MAX_OUTPUTS, f"must be in [1, {MAX_OUTPUTS}]")
        enough = self.best_of is None or self.n <= self.best_of <= MAX_OUTPUTS
        rule("best_of", enough, f"must be in [n, {MAX_OUTPUTS}]")
        rule("beam_width", self.beam_width in range(MAX_BEAMS + 1), f"must be in [0, {MAX_BEAMS}]; 0 is off")
        rule("length_penalty", math.isfinite(self.length_penalty), "must be finite")
        known = self.early_stopping in get_args(EarlyStopping)
        rule("early_stopping", known, f"must be one of {', '.join(get_args(EarlyStopping))}")
        rule("max_tokens", self.max_tokens is None or self.max_tokens >= 1, "must be at least 1")
        rule("min_tokens", self.min_tokens >= 0, "must not be negative")
        if self.max_tokens is not None and self.max_tokens >= 1:
            rule(
                "min_tokens",
                self.min_tokens <= self.max_tokens,
                f"must not exceed max_tokens, {self.max_tokens}",
            )
        rule("temperature", _within(self.temperature, 0, math.inf), "must be finite and not negative")
        rule("top_k", self.top_k >= 0, "must not be negative; 0 keeps all tokens")
        rule("top_p", 0 < self.top_p <= 1, "must be in (0, 1]")
        rule("min_p", 0 <= self.min_p <= 1, "must be in [0, 1]")
        rule("seed", self.seed is None or 0 <= self.seed < 2**64, "must be an unsigned 64-bit integer")
        penalty = self.repetition_penalty
        rule("repetition_penalty", math.isfinite(penalty) and penalty > 0, "must be finite and positive")
        for name in ("frequency_penalty", "presence_penalty"):
            rule(name, _within(getattr(self, name), -2, 2), "must be in [-2, 2]")
        few = len(self.logit_bias) <= MAX_LOGIT_BIASES
        rule("logit_bias", few, f"must have at most {MAX_LOGIT_BIASES} entries")
        mild = all(_within(bias, -100, 100) for bias in self.logit_bias.values())
        rule("logit_bias", mild, "each must be in [-100, 100]")
        for name in ("logit_bias", "allowed_token_ids", "stop_token_ids"):
            known = all(0 <= token < vocab_size for token in getattr(self, name))
            rule(name, known, f"each token must be in [0, {vocab_size})")
        for name, most in (("stop", MAX_STOP_STRINGS), ("bad_words", MAX_BAD_WORDS)):
            texts = getattr(self, name)
            rule(name, len(texts) <= most, f"must have at most {most} entries")
            rule(name, all(texts), "must not contain an empty string")
            short = all(len(text) <= MAX_STRING_LENGTH for text in texts)
            rule(name, short, f"each entry must have at most {MAX_STRING_LENGTH} characters")
        at_most = f"must be in [0, {MAX_PATTERN}]; 0 is off"
        rule("repetition_pattern", 0 <= self.repetition_pattern <= MAX_PATTERN, at_most)
        rule("repetition_count", 2 <= self.repetition_count <= 2**31, "must be at least 2")
        rule("thinking_budget", (self.thinking_budget or 0) >= 0, "must not be negative")
        rule("choice", all(self.choice), "must not contain an empty string")
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            rule(name, value is None or 0 <= value <= MAX_LOGPROBS, f"must be in [0, {MAX_LOGPROBS}]")
        return found or clashes(self)

    def validate(self, vocab_size: int) -> None:
        """Raises InvalidRequest with every rule that is broken."""
        if found := self.violations(vocab_size):
            raise InvalidRequest(*found)


def _within(value: float, low: float, high: float) -> bool:
    return math.isfinite(value) and low <= value <= high
