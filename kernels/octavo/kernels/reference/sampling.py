"""One token for every row, as one batched op. Contract: `octavo.kernels.ops.Ops.sample`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octavo.kernels.random import uniform

Sampled = tuple[Tensor, *tuple[Tensor | None, ...]]
Put = Callable[[np.ndarray], Tensor]


def sample(logits: Tensor, sampling: Any, put: Put | None = None) -> Sampled:
    tensor = put or putting(logits)
    reported = torch.log_softmax(logits.float(), -1) if (sampling.logprobs >= 0).any() else None
    logits = adjust(logits, sampling, tensor).float()
    if len(sampling.mask_rows):
        bits = np.unpackbits(sampling.masks().view(np.uint8), axis=-1, bitorder="little")
        forbidden = np.zeros(logits.shape, np.bool_)
        forbidden[sampling.mask_rows] = bits[:, : logits.shape[-1]] == 0
        logits = logits.masked_fill(tensor(forbidden), -torch.inf)

    token_ids = logits.argmax(-1)
    drawn = np.flatnonzero((sampling.temperature > 0) & (sampling.candidates == 0))
    if len(drawn):
        at = tensor(drawn)
        scaled = logits[at] / tensor(sampling.temperature[drawn])[:, None]
        cut(
            scaled,
            tensor(sampling.top_k[drawn]),
            tensor(sampling.top_p[drawn]),
            tensor(sampling.min_p[drawn]),
        )
        below = torch.softmax(scaled, -1).cumsum(-1, dtype=torch.float64)
        point = tensor(uniform(sampling.seeds[drawn], sampling.draws[drawn]))[:, None] * below[:, -1:]
        token_ids[at] = torch.searchsorted(below, point, right=True)[:, 0]

    chosen = token_ids.to(torch.int32)
    searched = int(sampling.candidates.max(initial=0))
    best = likeliest(logits, searched) if searched else (None, None)
    if reported is None:
        return chosen, None, None, None, *best
    chosen_logprobs = reported.gather(-1, token_ids[:, None])[:, 0]
    return chosen, chosen_logprobs, *likeliest(reported, int(sampling.logprobs.max())), *best


def putting(like: Tensor) -> Put:
    """What takes an array to a tensor's device, at once."""
    return lambda values: torch.from_numpy(values).to(like.device)


def adjust(logits: Tensor, sampling: Any, tensor: Put) -> Tensor:
    """The logits, or, float32, log-probabilities for rows of a beam search and what penalties and biases
    make of both. tensor: takes an array to the device."""
    searched = np.flatnonzero(sampling.candidates)
    if len(searched):
        at = tensor(searched)
        logits = logits.float().index_copy(0, at, torch.log_softmax(logits[at].float(), -1))
    if len(sampling.seen_rows):
        logits = logits.float()
        rows, tokens = tensor(sampling.seen_rows).long(), tensor(sampling.seen_tokens).long()
        counts, seen = tensor(sampling.seen_counts), logits[rows, tokens]
        repetition = tensor(sampling.repetition)[rows]
        seen = torch.where(seen > 0, seen / repetition, seen * repetition)
        seen -= tensor(sampling.frequency)[rows] * counts + tensor(sampling.presence)[rows] * (counts > 0)
        logits = logits.index_put((rows, tokens), seen)
    if len(sampling.bias_rows):
        where = (tensor(sampling.bias_rows).long(), tensor(sampling.bias_tokens).long())
        logits = logits.float().index_put(where, tensor(sampling.bias_values), accumulate=True)
    return logits


def score(
    logits: Tensor, targets: np.ndarray, most: int, put: Put | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    logprobs = torch.log_softmax(logits.float(), -1)
    at = (put or putting(logits))(targets).long()
    return logprobs.gather(-1, at[:, None])[:, 0], *likeliest(logprobs, most)


def likeliest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Tokens, int32, and their values, float32, likeliest first: [num_rows, count] each."""
    top = values.topk(count, -1)
    return top.indices.to(torch.int32), top.values


def cut(logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> None:
    """Sets the logits that the cuts drop to -inf, in place. logits: [num_rows, vocab_size], the rest:
    [num_rows]."""
    by_rank = ((top_k > 0) & (top_k < logits.shape[-1])) | (top_p < 1)
    at = by_rank.nonzero()[:, 0]
    if len(at):
        # Each cut keeps what reaches a threshold, so that equal logits share one fate.
        ranked = logits[at].sort(-1, descending=True).values
        last = torch.where(top_k[at] > 0, top_k[at], logits.shape[-1]).clamp(max=logits.shape[-1]).long() - 1
        ranked = ranked.masked_fill(ranked < ranked.gather(-1, last[:, None]), -torch.inf)
        probabilities = torch.softmax(ranked, -1)
        before = probabilities.cumsum(-1) - probabilities
        # The likeliest always stays: nothing is before it.
        ranked = ranked.masked_fill(before >= top_p[at, None], torch.inf)
        threshold = ranked.masked_fill(ranked == -torch.inf, torch.inf).min(-1).values
        logits[at] = logits[at].masked_fill(logits[at] < threshold[:, None], -torch.inf)
    if (min_p > 0).any():
        least = logits.max(-1).values + min_p.log()
        logits.masked_fill_(logits < least[:, None], -torch.inf)
