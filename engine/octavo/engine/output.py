"""What a stream of one request yields."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class FinishReason(Enum):
    """Why an output ended."""

    EOS = "eos"
    """The model's end-of-sequence token."""
    STOP = "stop"
    """A stop string or stop token of the request."""
    LENGTH = "length"
    """max_tokens, or the context length."""
    CANCELLED = "cancelled"
    """The client's wish."""
    REPETITION = "repetition"
    """A pattern that repeats, as `repetition_pattern` and `repetition_count` define it."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probability of one chosen token, and the likeliest alternatives, likeliest first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request so far, of all its outputs together. `num_cached_tokens` of the prompt were found
    in the cache, not computed."""

    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """What one output of a request produced since its last delta. Joined, the deltas of an output are all of
    it.

    text: never splits a character and never holds a part of a stop string; so it can lag behind token_ids.
        Without what the model thought before it answered, and without the tags around that.
    finish_reason: set on the last delta of an output only.
    logprobs: one per token id, if asked.
    index: which output of the request.
    reasoning: what the model thought, for a model that thinks between tags.
    prompt_logprobs: one for each token of the prompt but the first, if asked; on the first delta of output 0.
    score: on the last delta of an output that was chosen among others: of a beam search log-probability /
        length ** length_penalty, of `best_of` the mean log-probability. None elsewhere.
    """

    text: str
    token_ids: tuple[int, ...]
    usage: Usage
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    index: int = 0
    reasoning: str = ""
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    score: float | None = None
