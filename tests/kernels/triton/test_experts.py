"""Experts against the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.kernels import reference, triton
from octavo.kernels.triton.grouping import group_rows
from tests.kernels.triton.tolerances import DTYPES, close

pytestmark = pytest.mark.usefixtures("triton_kernels")


@pytest.mark.no_cover
@settings(max_examples=40, derandomize=True)
@given(
    row_owners=st.lists(st.integers(-1, 6), max_size=90).map(lambda o: torch.tensor(o, dtype=torch.int32)),
    rows=st.sampled_from([16, 64]),
)
def test_each_row_is_once_in_a_block_of_its_owner(row_owners: torch.Tensor, rows: int) -> None:
    groups = group_rows(row_owners, 7, rows)
    used = int((groups.owners >= 0).sum())
    assert (groups.owners[:used].diff() >= 0).all()
    assert (groups.owners[used:] == -1).all()
    order = groups.order.view(-1, rows)[:used]
    for owner in range(7):
        theirs = order[groups.owners[:used] == owner].flatten()
        expected = (row_owners == owner).nonzero()[:, 0]
        assert torch.equal(theirs[: len(expected)].long(), expected)  # in their order, then padding
        assert (theirs[len(expected) :] == len(row_owners)).all()
        assert len(theirs) - len(expected) < rows


def test_more_rows_than_are_looked_at_at_once() -> None:
    row_owners = torch.arange(2500, dtype=torch.int32) % 3
    groups = group_rows(row_owners, 3, 128)
    order = groups.order.view(-1, 128)
    for owner in range(3):
        theirs = order[groups.owners == owner].flatten()
        assert torch.equal(theirs[theirs < 2500], torch.arange(owner, 2500, 3, dtype=torch.int32))


@settings(max_examples=25, derandomize=True)
@given(
    num_tokens=st.integers(0, 40),
    num_experts=st.sampled_from([1, 3, 8, 60]),
    top_k=st.integers(1, 8),
    renormalize=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**20),
)
def test_routing(
    num_tokens: int, num_experts: int, top_k: int, renormalize: bool, dtype: torch.dtype, seed: int
) -> None:
    top_k = min(top_k, num_experts)
    logits = torch.randn(num_tokens, num_experts, generator=torch.Generator().manual_seed(seed)).to(dtype)
    weights, experts = triton.route(logits, top_k, renormalize)
    expected_weights, expected_experts = reference.route(logits, top_k, renormalize)
    close(weights, expected_weights)
    assert torch.equal(experts, expected_experts)


def test_of_equal_experts_the_first_come_first() -> None:
    assert triton.route(torch.zeros(1, 6), 3, False)[1].tolist() == [[0, 1, 2]]


def test_more_experts_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="top_k is 1 to the number of experts, 4"):
        triton.route(torch.zeros(1, 4), 5, False)


def mixture(
    num_tokens: int, num_experts: int, top_k: int, n: int, m: int, dtype: torch.dtype, seed: int
) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_tokens, n, generator=generator).to(dtype)
    gate_up = (torch.randn(num_experts, 2 * m, n, generator=generator) / n**0.5).to(dtype)
    down = (torch.randn(num_experts, n, m, generator=generator) / m**0.5).to(dtype)
    logits = torch.randn(num_tokens, num_experts, generator=generator)
    return x, gate_up, down, *reference.route(logits, top_k, True)


@pytest.mark.no_cover
@settings(max_examples=25, derandomize=True)
@given(
    num_tokens=st.integers(0, 70),
    num_experts=st.sampled_from([2, 5, 16]),
    top_k=st.integers(1, 2),
    n=st.integers(1, 150),
    m=st.integers(1, 100),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**20),
)
def test_mixtures_of_any_size(
    num_tokens: int, num_experts: int, top_k: int, n: int, m: int, dtype: torch.dtype, seed: int
) -> None:
    inputs = mixture(num_tokens, num_experts, top_k, n, m, dtype, seed)
    close(triton.mixture_of_experts(*inputs, "silu"), reference.mixture_of_experts(*inputs, "silu"))


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
def test_activations(activation: str) -> None:
    inputs = mixture(9, 4, 2, 64, 48, torch.float32, 0)
    close(triton.mixture_of_experts(*inputs, activation), reference.mixture_of_experts(*inputs, activation))


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown activation 'relu'"):
        triton.mixture_of_experts(*mixture(1, 4, 2, 16, 16, torch.float32, 0), "relu")


@pytest.mark.parametrize(
    "chosen", [[[3, -1]] * 5, [[-1, -1]] * 5, [[0, 1], [1, 0], [-1, 1], [1, -1], [0, 1]]]
)
def test_experts_with_no_tokens_and_tokens_with_no_expert(chosen: list[list[int]]) -> None:
    x, gate_up, down, weights, _ = mixture(5, 4, 2, 64, 48, torch.float32, 1)
    inputs = (x, gate_up, down, weights, torch.tensor(chosen, dtype=torch.int32), "silu")
    close(triton.mixture_of_experts(*inputs), reference.mixture_of_experts(*inputs))


def test_enough_rows_for_the_largest_tiles() -> None:
    inputs = mixture(300, 2, 1, 32, 32, torch.float32, 2)
    close(triton.mixture_of_experts(*inputs, "silu"), reference.mixture_of_experts(*inputs, "silu"))
