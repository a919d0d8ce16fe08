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


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probability of one chosen token, and the likeliest alternatives, likeliest first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request so far. `num_cached_tokens` of the prompt were found in the cache, not computed."""

    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """What a request produced since its last delta. The deltas of a request, joined, are its whole output.

    text: never splits a character and never holds a part of a stop string; so it can lag behind token_ids.
    finish_reason: set on the last delta only.
    logprobs: one per token id, if asked.
    """

    text: str
    token_ids: tuple[int, ...]
    usage: Usage
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
