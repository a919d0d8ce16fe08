"""What one sequence brings to the sampling op, kept between steps so that a step only gathers it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from array import array

    from octavo.engine.params import SamplingParams

ROW = np.dtype(
    [
        ("temperature", np.float32),
        ("top_k", np.int32),
        ("top_p", np.float32),
        ("min_p", np.float32),
        ("seed", np.uint64),
        ("repetition", np.float32),
        ("frequency", np.float32),
        ("presence", np.float32),
        ("logprobs", np.int32),
    ]
)


class SamplingState:
    """row: one element of ROW. seen: the sparse entries of the penalties, if there are any."""

    __slots__ = ("row", "seen")

    def __init__(self, params: SamplingParams, seed: int, num_prompt_tokens: int) -> None:
        values = (
            params.temperature,
            params.top_k,
            params.top_p,
            params.min_p,
            seed,
            params.repetition_penalty,
            params.frequency_penalty,
            params.presence_penalty,
            -1 if params.logprobs is None else params.logprobs,
        )
        self.row = np.array([values], dtype=ROW)
        self.seen = SeenTokens(num_prompt_tokens) if params.has_penalties else None


class SeenTokens:
    """Which tokens stand in a sequence, and how often each in its output."""

    def __init__(self, num_prompt_tokens: int) -> None:
        self._num_prompt_tokens = num_prompt_tokens
        self._num_counted = 0
        self._index: dict[int, int] = {}
        self._tokens = np.zeros(64, np.int32)
        self._counts = np.zeros(64, np.float32)

    def entries(self, token_ids: array[int]) -> tuple[np.ndarray, np.ndarray]:
        """Distinct tokens, int32 [num_seen], and their counts in the output, float32 [num_seen].

        `token_ids` may only have grown since the last call; O(new tokens), amortised.
        """
        for position in range(self._num_counted, len(token_ids)):
            index = self._index.setdefault(token_ids[position], len(self._index))
            if index == len(self._tokens):
                self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._tokens[index] = token_ids[position]
            self._counts[index] += position >= self._num_prompt_tokens
        self._num_counted = len(token_ids)
        return self._tokens[: len(self._index)], self._counts[: len(self._index)]
