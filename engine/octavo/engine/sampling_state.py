"""What one sequence brings to the sampling op, kept between steps so that a step only gathers it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from array import array
    from collections.abc import Sequence

    from octavo.engine.bad_words import BadWords
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
        ("candidates", np.int32),
    ]
)


def gather(states: Sequence[SamplingState]) -> np.ndarray:
    """The rows of several, ROW [len(states)]. As bytes they are joined in a tenth of the time that NumPy
    takes to concatenate arrays of a structured type."""
    return np.frombuffer(b"".join([state.row for state in states]), ROW)


class SamplingState:
    """row: the bytes of one element of ROW. seen: the sparse entries of the penalties, if there are any.

    is_biased: whether `biases` may have any.
    """

    __slots__ = (
        "_bad_words",
        "_bias_tokens",
        "_bias_values",
        "_min_tokens",
        "_stop_tokens",
        "is_biased",
        "row",
        "seen",
    )

    def __init__(
        self,
        params: SamplingParams,
        seed: int,
        num_prompt_tokens: int,
        *,
        stop_tokens: frozenset[int] = frozenset(),
        bad_words: BadWords | None = None,
        num_candidates: int = 0,
    ) -> None:
        """stop_tokens: those that may not come before `min_tokens`. num_candidates: of a beam search."""
        ranked = params.best_of is not None
        values = (
            params.temperature,
            params.top_k,
            params.top_p,
            params.min_p,
            seed,
            params.repetition_penalty,
            params.frequency_penalty,
            params.presence_penalty,
            (0 if ranked else -1) if params.logprobs is None else params.logprobs,
            num_candidates,
        )
        self.row = np.array([values], dtype=ROW).tobytes()
        self.seen = SeenTokens(num_prompt_tokens) if params.has_penalties else None
        self._min_tokens = params.min_tokens
        self._stop_tokens = list(stop_tokens)
        self._bias_tokens = np.fromiter(params.logit_bias.keys(), np.int32)
        self._bias_values = np.fromiter(params.logit_bias.values(), np.float32)
        self._bad_words = bad_words
        self.is_biased = bool(params.min_tokens or params.logit_bias or bad_words is not None)

    @property
    def reads_output(self) -> bool:
        """Whether what is told to the sampling op depends on which tokens the output has."""
        return self.seen is not None or self._bad_words is not None

    def biases(
        self, token_ids: array[int], ahead: Sequence[int], num_output_tokens: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens, int32, and what is added to their logits, float32: where `ahead` follows `token_ids`, of
        which `num_output_tokens` are output, before the next one."""
        forbidden: list[int] = []
        if num_output_tokens + len(ahead) < self._min_tokens:
            forbidden += self._stop_tokens
        if self._bad_words is not None:
            forbidden += self._bad_words.forbidden(token_ids, ahead)
        tokens = np.concatenate([self._bias_tokens, np.array(forbidden, np.int32)])
        values = np.concatenate([self._bias_values, np.full(len(forbidden), -np.inf, np.float32)])
        return tokens, values

    def follow(self, other: SamplingState) -> None:
        """Goes on from another's tokens, as a beam does."""
        if other.seen is not None:
            self.seen = other.seen.copy()


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

    def entries_after(self, token_ids: array[int], ahead: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The entries where `ahead` follows `token_ids` in the output."""
        tokens, counts = self.entries(token_ids)
        if not ahead:
            return tokens, counts
        new = list(dict.fromkeys(token for token in ahead if token not in self._index))
        at = {token: len(self._index) + i for i, token in enumerate(new)}
        tokens = np.concatenate([tokens, np.array(new, np.int32)])
        counts = np.concatenate([counts, np.zeros(len(new), np.float32)])
        for token in ahead:
            counts[at[token] if token in at else self._index[token]] += 1
        return tokens, counts

    def copy(self) -> SeenTokens:
        twin = SeenTokens(self._num_prompt_tokens)
        twin._num_counted = self._num_counted
        twin._index = self._index.copy()
        twin._tokens, twin._counts = self._tokens.copy(), self._counts.copy()
        return twin
