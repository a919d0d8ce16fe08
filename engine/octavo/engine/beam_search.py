"""Beam search as Transformers defines it, over scores alone: which tokens its beams go on with.

Transformers' `GenerationMixin._beam_search`, without sampling. Scores are sums of log-probabilities, after
penalties and biases.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from octavo.engine.output import FinishReason

if TYPE_CHECKING:
    from array import array
    from collections.abc import Mapping

    import numpy as np

    from octavo.engine.params import SamplingParams


class Step(NamedTuple):
    """A beam's continuation: the beam that it comes from, the token, and the score with it."""

    parent: int
    token_id: int
    score: float


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished output. score: log-probability / length ** length_penalty."""

    token_ids: tuple[int, ...]
    score: float
    finish_reason: FinishReason


class BeamSearch:
    """width: beams. num_candidates: tokens of each beam that are looked at, the likeliest ones.

    scores: of the beams, in their order; there is one until the first step.
    hypotheses: the best finished ones so far, best first.
    """

    def __init__(
        self, params: SamplingParams, max_tokens: int, stop_tokens: frozenset[int], vocab_size: int
    ) -> None:
        self.width = params.beam_width
        # So many that enough are left to go on with when all others end an output.
        self._num_kept = max(2, 1 + len(stop_tokens)) * self.width
        self.num_candidates = min(self._num_kept, vocab_size)
        self.scores = [0.0]
        self.hypotheses: list[Hypothesis] = []
        self._offers: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._length = 0
        self._max_tokens = max_tokens
        self._min_tokens = params.min_tokens
        self._stop_tokens = stop_tokens
        self._explicit = frozenset(params.stop_token_ids)
        self._penalty = params.length_penalty
        self._early_stopping = params.early_stopping

    def offer(self, beam: int, token_ids: np.ndarray, logprobs: np.ndarray) -> bool:
        """What may follow a beam: [num_candidates] each, likeliest first. Whether all beams have offered."""
        self._offers[beam] = token_ids, logprobs
        return len(self._offers) == len(self.scores)

    def advance(self, outputs: Mapping[int, array[int]]) -> list[Step]:
        """What each of the `width` beams is from here on; nothing where the search is over.

        outputs: the output tokens of each beam. A beam that goes on keeps its place.
        """
        candidates = [
            Step(beam, int(token_id), self.scores[beam] + float(logprob))
            for beam, offer in self._offers.items()
            for token_id, logprob in zip(*offer, strict=True)
        ]
        self._offers.clear()
        self._length += 1
        best = heapq.nsmallest(self._num_kept, candidates, key=lambda c: (-c.score, c.parent, c.token_id))
        going_on = []
        for rank, step in enumerate(best):
            reason = self._end_of(step)
            if reason is None:
                going_on.append(step)
            elif rank < self.width:
                self._finish(step, outputs[step.parent], reason)
        going_on = going_on[: self.width]
        if not going_on or self._is_over(going_on[0].score):
            return []
        placed = _placed(going_on)
        self.scores = [step.score for step in placed]
        return placed

    def _end_of(self, step: Step) -> FinishReason | None:
        if step.token_id in self._stop_tokens and self._length > self._min_tokens:
            return FinishReason.STOP if step.token_id in self._explicit else FinishReason.EOS
        return FinishReason.LENGTH if self._length >= self._max_tokens else None

    def _finish(self, step: Step, output: array[int], reason: FinishReason) -> None:
        score = step.score / self._length**self._penalty
        self.hypotheses.append(Hypothesis((*output, step.token_id), score, reason))
        self.hypotheses.sort(key=lambda hypothesis: -hypothesis.score)
        del self.hypotheses[self.width :]

    def _is_over(self, best_running: float) -> bool:
        if len(self.hypotheses) < self.width:
            return False
        longest = self._early_stopping == "never" and self._penalty > 0
        length = self._max_tokens if longest else self._length
        hopeless = best_running / length**self._penalty <= self.hypotheses[-1].score
        return hopeless or self._early_stopping == "yes"


def _placed(steps: list[Step]) -> list[Step]:
    """The steps in an order in which every parent that goes on keeps its place: little is forked then."""
    places: dict[int, Step] = {}
    moved: list[Step] = []
    for step in steps:
        if step.parent in places:
            moved.append(step)
        else:
            places[step.parent] = step
    free = (place for place in range(len(steps)) if place not in places)
    places |= zip(free, moved, strict=False)
    return [places[place] for place in range(len(steps))]
