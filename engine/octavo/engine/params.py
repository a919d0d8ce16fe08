"""How the next token is chosen and when a sequence ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

from octavo.engine.errors import InvalidRequest, Violation

MAX_STOP_STRINGS = 16
MAX_STOP_STRING_LENGTH = 256
MAX_LOGPROBS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampling and stopping of one sequence. The defaults are the model's plain distribution.

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
    stop: the output ends before the first of these strings, which is not part of it.
    stop_token_ids: the output ends with the first of these, as with the model's end-of-sequence.
    ignore_eos: do not end at the model's end-of-sequence tokens.
    logprobs: None for none, else this many of the likeliest tokens beside the chosen one (0: the chosen one
        only); natural logarithms, before temperature, penalties and cuts.
    """

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
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None

    @property
    def has_penalties(self) -> bool:
        return (self.repetition_penalty, self.frequency_penalty, self.presence_penalty) != (1.0, 0.0, 0.0)

    def violations(self, vocab_size: int) -> list[Violation]:
        """Every rule that these parameters break, for a model of `vocab_size` tokens."""
        found: list[Violation] = []

        def rule(field: str, holds: bool, text: str) -> None:
            if not holds:
                found.append(Violation(field, getattr(self, field), text))

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
        rule("stop", len(self.stop) <= MAX_STOP_STRINGS, f"must have at most {MAX_STOP_STRINGS} entries")
        rule("stop", all(self.stop), "must not contain an empty string")
        short = all(len(text) <= MAX_STOP_STRING_LENGTH for text in self.stop)
        rule("stop", short, f"each entry must have at most {MAX_STOP_STRING_LENGTH} characters")
        known = all(0 <= token < vocab_size for token in self.stop_token_ids)
        rule("stop_token_ids", known, f"each must be in [0, {vocab_size})")
        few = self.logprobs is None or 0 <= self.logprobs <= MAX_LOGPROBS
        rule("logprobs", few, f"must be in [0, {MAX_LOGPROBS}]")
        return found

    def validate(self, vocab_size: int) -> None:
        """Raises InvalidRequest with every rule that is broken."""
        if found := self.violations(vocab_size):
            raise InvalidRequest(*found)


def _within(value: float, low: float, high: float) -> bool:
    return math.isfinite(value) and low <= value <= high
