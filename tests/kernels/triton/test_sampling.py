"""Choosing tokens in Triton's interpreter: the reference's choice, but where rounding decides it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import triton as compiler
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.kernels import random, reference, triton
from octavo.kernels.reference.sampling import putting
from octavo.kernels.triton import choice
from octavo.kernels.triton.sampling import choose
from tests.kernels.test_sampling import batch, logits_of
from tests.kernels.triton.tolerances import DTYPES

pytestmark = pytest.mark.usefixtures("triton_kernels")

CLOSE = 1e-5


def near_ties(logits: np.ndarray, sampling: Any, row: int) -> set[int]:
    """The tokens that exact arithmetic on numbers a little off would choose, in float64.

    logits: [vocab_size].
    """
    scaled = logits.astype(np.float64) / sampling.temperature[row]
    weights = np.exp(scaled - scaled.max())
    order = np.sort(scaled)[::-1]
    top_k = sampling.top_k[row] if 0 < sampling.top_k[row] < len(logits) else len(logits)
    kept = scaled >= order[top_k - 1]
    found = set()
    for slip in (-CLOSE, 0.0, CLOSE):
        bound = -np.inf
        if sampling.top_p[row] < 1:
            wanted = (sampling.top_p[row] + slip) * weights[kept].sum()
            bound = min(v for v in scaled[kept] if weights[kept & (scaled > v)].sum() < max(wanted, 1e-300))
        with np.errstate(divide="ignore"):
            least = scaled.max() + np.log(np.float64(sampling.min_p[row])) + slip
        left = np.where(kept & (scaled >= bound) & (scaled >= min(least, scaled.max())), weights, 0)
        below = np.cumsum(left) / left.sum()
        point = random.uniform(sampling.seeds[row : row + 1], sampling.draws[row : row + 1])[0]
        likely = np.flatnonzero(left)
        for moved in (point - CLOSE, point, point + CLOSE):
            found.add(int(likely[min(np.searchsorted(below[likely], moved, side="right"), len(likely) - 1)]))
    return found


def check(logits: torch.Tensor, sampling: Any) -> int:
    """How many rows rounding decided."""
    actual, expected = triton.sample(logits, sampling)[0], reference.sample(logits, sampling)[0]
    different = np.flatnonzero(actual != expected)
    for row in different:
        ties = near_ties(logits[row].float().numpy(), sampling, int(row))
        assert {int(actual[row]), int(expected[row])} <= ties
    return len(different)


@pytest.mark.no_cover
@settings(max_examples=60, derandomize=True)
@given(
    num_rows=st.integers(1, 6),
    vocab=st.integers(1, 3000),
    spread=st.sampled_from([0.1, 1.0, 5.0]),
    dtype=st.sampled_from(DTYPES),
    data=st.data(),
)
def test_the_choice_is_that_of_the_reference(
    num_rows: int, vocab: int, spread: float, dtype: torch.dtype, data: st.DataObject
) -> None:
    """Half types have many equal logits: they share one fate."""

    def column(values: st.SearchStrategy[Any]) -> Any:
        return data.draw(st.lists(values, min_size=num_rows, max_size=num_rows))

    logits = (logits_of(data.draw(st.integers(0, 2**20)), num_rows, vocab) * spread).to(dtype)
    rows = batch(
        num_rows,
        temperature=column(st.sampled_from([0.0, 0.3, 1.0, 2.0])),
        top_k=column(st.sampled_from([0, 1, 2, 7, 50, 1000, 4000])),
        top_p=column(st.sampled_from([0.001, 0.3, 0.9, 0.99, 1.0])),
        min_p=column(st.sampled_from([0.0, 0.01, 0.3, 1.0])),
        seeds=column(st.integers(0, 2**64 - 1)),
        draws=column(st.integers(0, 2**31)),
    )
    check(logits, rows)


def test_rounding_hardly_ever_decides() -> None:
    count = 120
    logits = logits_of(7, count, 2000)
    cuts = {"top_k": np.arange(count) % 3 * 40, "top_p": 1 - np.arange(count) % 5 / 10}
    assert check(logits, batch(count, seeds=np.arange(count), draws=9, **cuts)) <= 1


def test_more_tokens_than_are_looked_at_at_once() -> None:
    logits = logits_of(8, 4, 10_000) / 3
    check(logits, batch(4, top_k=[0, 5000, 0, 20], top_p=[1.0, 0.9, 0.5, 0.9], draws=np.arange(4)))


@settings(max_examples=30, derandomize=True)
@given(
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32) | st.just(-np.inf), min_size=1, max_size=80),
    top_k=st.integers(1, 90),
)
def test_top_k_of_logits_of_any_size_and_distance(values: list[float], top_k: int) -> None:
    """Of the drawn, none is below the k-th; -inf is never drawn while there is anything else."""
    logits = torch.tensor([values] * 4)
    chosen, _ = choose(logits, batch(4, top_k=top_k, draws=np.arange(4)), putting(logits))
    ranked = sorted(values, reverse=True)
    for token in chosen.tolist():
        assert values[token] >= ranked[min(top_k, len(values)) - 1]
        assert values[token] > -np.inf or ranked[0] == -np.inf


def test_temperature_zero_takes_the_likeliest_and_of_equals_the_first() -> None:
    logits = torch.zeros(3, 2500)
    logits[0, [700, 2100]] = 1.0
    logits[1, [3, 4]] = 1.0
    assert triton.sample(logits, batch(3, temperature=0))[0].tolist() == [700, 3, 0]


@compiler.jit
def uniform_kernel(keys_ptr, out_ptr, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, BLOCK)
    seeds = tl.load(keys_ptr + at, mask=at < count, other=0)
    draws = tl.load(keys_ptr + count + at, mask=at < count, other=0)
    tl.store(out_ptr + at, choice.uniform(seeds, draws), mask=at < count)


@settings(max_examples=30, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**63 - 1)), min_size=1, max_size=32))
def test_numbers_are_the_same_as_everywhere(keys: list[tuple[int, int]]) -> None:
    seeds = np.array([seed for seed, _ in keys], np.uint64)
    draws = np.array([draw for _, draw in keys], np.int64)
    out = torch.empty(len(keys), dtype=torch.float64)
    uniform_kernel[(1,)](torch.from_numpy(np.stack([seeds.view(np.int64), draws])), out, len(keys), BLOCK=32)
    assert out.numpy().tolist() == random.uniform(seeds, draws).tolist()


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    alone = [triton.sample(logits_of(i, 1, 1500), batch(1, seeds=i, draws=7))[0][0] for i in range(6)]
    together = torch.cat([logits_of(i, 1, 1500) for i in range(6)])
    assert triton.sample(together, batch(6, seeds=np.arange(6), draws=7))[0].tolist() == alone


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_penalties_biases_masks_and_reports_are_those_of_the_reference(temperature: float) -> None:
    vocab = 70
    logits = logits_of(9, num_rows=4, vocab=vocab).to(torch.bfloat16)
    masks = np.zeros((2, 3), np.uint32)
    masks[0], masks[1, 2] = 0x0F0F0F0F, 0b101010  # of tokens 65, 67 and 69
    rows = batch(
        4,
        temperature=temperature,
        top_p=0.9,
        repetition=1.3,
        frequency=0.2,
        presence=0.1,
        seen_rows=[0, 0, 3],
        seen_tokens=[3, 64, 65],
        seen_counts=[1, 0, 4],
        bias_rows=[1, 3],
        bias_tokens=[69, 67],
        bias_values=[40.0, -np.inf],
        mask_rows=[0, 3],
        masks=masks,
        logprobs=[3, -1, 0, 2],
        candidates=[0, 0, 5, 0],
        draws=np.arange(4),
    )
    actual, expected = triton.sample(logits, rows), reference.sample(logits, rows)
    for ours, theirs in zip(actual[:4], expected[:4], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(actual[4:], expected[4:], strict=True):
        np.testing.assert_array_equal(ours[2], theirs[2])  # the only row of a beam search


def test_where_nothing_is_allowed_a_token_is_named_all_the_same() -> None:
    masks = np.zeros((1, 2), np.uint32)
    assert triton.sample(logits_of(1), batch(1, mask_rows=[0], masks=masks))[0].tolist() == [0]


def test_no_rows() -> None:
    assert triton.sample(torch.zeros(0, 50), batch(0))[0].tolist() == []
