"""The sampling op: Transformers' processors are the oracle of cuts and penalties, χ² of the draws."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from octavo.kernels import reference
from octavo.kernels.random import uniform
from octavo.kernels.reference.sampling import cut

VOCAB = 50


def sample(logits: torch.Tensor, sampling: Any) -> tuple[Any, ...]:
    """The reference's, on the host."""
    return _on_host(reference.sample(logits, sampling))


def score(logits: torch.Tensor, targets: np.ndarray, most: int) -> tuple[Any, ...]:
    return _on_host(reference.score(logits, targets, most))


def _on_host(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(None if part is None else part.numpy() for part in parts)


def batch(num_rows: int, **columns: Any) -> SimpleNamespace:
    """A sampling batch with the same value in every row of a column, or the given array."""
    defaults: dict[str, tuple[Any, Any]] = {
        "temperature": (1.0, np.float32),
        "top_k": (0, np.int32),
        "top_p": (1.0, np.float32),
        "min_p": (0.0, np.float32),
        "seeds": (0, np.uint64),
        "draws": (0, np.int64),
        "repetition": (1.0, np.float32),
        "frequency": (0.0, np.float32),
        "presence": (0.0, np.float32),
        "logprobs": (-1, np.int32),
        "candidates": (0, np.int32),
    }
    rows = {
        k: np.broadcast_to(np.asarray(columns.pop(k, v), t), num_rows).copy()
        for k, (v, t) in defaults.items()
    }
    sparse: dict[str, Any] = {
        "seen_rows": np.int32,
        "seen_tokens": np.int32,
        "seen_counts": np.float32,
        "bias_rows": np.int32,
        "bias_tokens": np.int32,
        "bias_values": np.float32,
        "mask_rows": np.int32,
    }
    masks = columns.pop("masks", None)
    rows |= {k: np.asarray(columns.pop(k, []), t) for k, t in sparse.items()}
    assert not columns
    return SimpleNamespace(**rows, masks=lambda: masks)


def logits_of(seed: int, num_rows: int = 1, vocab: int = VOCAB) -> torch.Tensor:
    return torch.randn(num_rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def test_temperature_zero_takes_the_likeliest_and_of_equals_the_first() -> None:
    logits = torch.tensor([[0.0, 5.0, 5.0, 1.0], [9.0, 5.0, 5.0, 1.0]])
    assert sample(logits, batch(2, temperature=0))[0].tolist() == [1, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature: float) -> None:
    """χ² over 20,000 draws of ten tokens, against its 99.9 % quantile for nine degrees of freedom."""
    logits = logits_of(1, vocab=10)
    count = 20_000
    chosen, *_ = sample(
        logits.expand(count, -1), batch(count, temperature=temperature, draws=np.arange(count))
    )
    observed = np.bincount(chosen, minlength=10)
    expected = torch.softmax(logits[0] / temperature, -1).numpy() * count
    likely = expected > 5
    assert ((observed - expected)[likely] ** 2 / expected[likely]).sum() < 27.9


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    alone = [sample(logits_of(i), batch(1, seeds=i, draws=7))[0][0] for i in range(8)]
    logits = torch.cat([logits_of(i) for i in range(8)])
    assert sample(logits, batch(8, seeds=np.arange(8), draws=7))[0].tolist() == alone


def test_neighbouring_seeds_and_positions_are_independent() -> None:
    seeds, draws = np.meshgrid(np.arange(200, dtype=np.uint64), np.arange(200, dtype=np.int64))
    numbers = uniform(seeds.ravel(), draws.ravel()).reshape(200, 200)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(numbers[:, :-1].ravel(), numbers[:, 1:].ravel())[0, 1]) < 0.02


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**20),
    top_k=st.integers(0, VOCAB + 5),
    top_p=st.integers(1, 100).map(lambda percent: percent / 100),
    min_p=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
)
def test_cuts_are_those_of_transformers(seed: int, top_k: int, top_p: float, min_p: float) -> None:
    logits = logits_of(seed)
    expected = logits.clone()
    ids = torch.zeros(1, 1, dtype=torch.long)
    if top_k:
        expected = TopKLogitsWarper(top_k)(ids, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(ids, expected)
    if min_p:
        expected = MinPLogitsWarper(min_p)(ids, expected)
    ours = logits.clone()
    cut(ours, torch.tensor([top_k]), torch.tensor([top_p]), torch.tensor([min_p]))
    assert torch.equal(ours, expected)


def test_rows_are_cut_each_by_its_own_parameters() -> None:
    logits = logits_of(3).repeat(3, 1)
    cut(logits, torch.tensor([0, 1, 5]), torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.0, 0.0, 0.0]))
    assert (logits > -torch.inf).sum(-1).tolist() == [VOCAB, 1, 5]


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    logits = logits_of(4)
    seen = [3, 7, 11]
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([[3, 7, 7, 11]]), logits.clone())
    entries = {"seen_rows": [0, 0, 0], "seen_tokens": seen, "seen_counts": [0, 2, 1]}
    for token in range(VOCAB):  # a greedy choice between two tokens tells how their logits compare
        pair = {"bias_rows": [0] * (VOCAB - 1), "bias_tokens": [t for t in range(VOCAB) if t != token]}
        bias = [-1e9 if t != 7 else 0.0 for t in pair["bias_tokens"]]
        chosen = sample(logits, batch(1, temperature=0, repetition=1.7, **entries, **pair, bias_values=bias))[
            0
        ]
        assert chosen[0] == (token if expected[0, token] > expected[0, 7] or token == 7 else 7)


def test_frequency_and_presence_count_only_the_output() -> None:
    logits = torch.tensor([[1.0, 1.2, 1.3]])
    entries = {"seen_rows": [0, 0], "seen_tokens": [1, 2], "seen_counts": [0, 2]}
    assert sample(logits, batch(1, temperature=0, frequency=0.1, **entries))[0] == [1]
    assert sample(logits, batch(1, temperature=0, presence=0.4, **entries))[0] == [1]
    assert sample(logits, batch(1, temperature=0, presence=0.05, **entries))[0] == [2]


def test_a_bias_of_minus_infinity_forbids_a_token() -> None:
    logits = torch.tensor([[0.0, 9.0, 1.0]])
    forbidden = {"bias_rows": [0], "bias_tokens": [1], "bias_values": [-np.inf]}
    assert sample(logits, batch(1, temperature=0, **forbidden))[0] == [2]
    chosen, *_ = sample(logits.expand(500, -1), batch(500, draws=np.arange(500), bias_rows=np.arange(500),
                        bias_tokens=[1] * 500, bias_values=[-np.inf] * 500))  # fmt: skip
    assert 1 not in chosen


def test_logprobs_are_of_the_model_whatever_was_cut_or_penalised() -> None:
    logits = logits_of(5)
    expected = torch.log_softmax(logits, -1)
    chosen, logprobs, top_ids, top_logprobs, *_ = sample(
        logits,
        batch(1, top_k=1, temperature=0.3, logprobs=4, bias_rows=[0], bias_tokens=[2], bias_values=[50.0]),
    )
    assert chosen == [2]
    assert logprobs is not None
    assert top_ids is not None
    assert top_logprobs is not None
    assert logprobs[0] == pytest.approx(float(expected[0, 2]))
    assert top_ids[0].tolist() == expected[0].topk(4).indices.tolist()
    assert top_logprobs[0] == pytest.approx(expected[0].topk(4).values.numpy())


def test_no_row_pays_for_logprobs_that_none_asked_for() -> None:
    assert sample(logits_of(6), batch(1))[1:] == (None,) * 5


@pytest.mark.parametrize("rows", [[1], [0, 1, 2]])
def test_a_mask_leaves_its_tokens_alone(rows: list[int]) -> None:
    logits = logits_of(3, num_rows=3)
    allowed = [[3, 31, 32, 49], [0], [47, 48]]
    masks = np.zeros((len(rows), 2), np.uint32)
    for at, row in enumerate(rows):
        for token in allowed[row]:
            masks[at, token // 32] |= np.uint32(1 << token % 32)
    chosen, *_ = sample(logits, batch(3, temperature=0, mask_rows=rows, masks=masks))
    for row in range(3):
        among = allowed[row] if row in rows else range(VOCAB)
        assert chosen[row] == max(among, key=lambda token: logits[row, token])


def test_candidates_are_the_likeliest_after_penalties_of_log_probabilities() -> None:
    logits = logits_of(5, num_rows=2)
    bias = {"bias_rows": [1], "bias_tokens": [7], "bias_values": [4.0]}
    *_, ids, logprobs = sample(logits, batch(2, candidates=[0, 5], temperature=0, **bias))
    expected = torch.log_softmax(logits[1], -1)
    expected[7] += 4.0
    best = expected.topk(5)
    assert ids[1].tolist() == best.indices.tolist()
    assert logprobs[1].tolist() == pytest.approx(best.values.tolist(), abs=1e-6)


def test_scores_are_log_probabilities_of_the_targets() -> None:
    logits = logits_of(6, num_rows=3)
    logprobs, top_ids, top_logprobs = score(logits, np.array([4, 0, 49], np.int32), 2)
    expected = torch.log_softmax(logits, -1)
    assert logprobs.tolist() == pytest.approx([expected[i, t].item() for i, t in enumerate((4, 0, 49))])
    assert top_ids.tolist() == expected.topk(2).indices.tolist()
    assert top_logprobs.ravel().tolist() == pytest.approx(expected.topk(2).values.ravel().tolist())
