"""RMS norm against the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.kernels import reference, triton
from tests.kernels.triton.tolerances import DTYPES, close

pytestmark = pytest.mark.usefixtures("triton_kernels")


@settings(max_examples=40, derandomize=True)
@given(
    rows=st.integers(0, 40),
    n=st.sampled_from([16, 64, 80, 96, 576, 1000, 2048]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**20),
)
def test_rows_of_any_number_and_length(rows: int, n: int, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, n, generator=generator).to(dtype)
    weight = torch.randn(n, generator=generator).to(dtype)
    close(triton.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_heads_of_a_slice(dtype: torch.dtype) -> None:
    """Queries and keys lie among the values: the slice of them has gaps."""
    heads = torch.randn(5, 7, 80).to(dtype)
    weight = torch.randn(80).to(dtype)
    close(triton.rms_norm(heads[:, 2:6], weight, 1e-6), reference.rms_norm(heads[:, 2:6], weight, 1e-6))


@settings(max_examples=30, derandomize=True)
@given(
    rows=st.integers(1, 20),
    n=st.sampled_from([64, 576, 1536]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**20),
)
def test_the_residual_is_added_in_place(rows: int, n: int, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, delta = torch.randn(2, rows, n, generator=generator).to(dtype)
    weight = torch.randn(n, generator=generator).to(dtype)
    total = x.clone()
    expected = reference.add_rms_norm(total, delta, weight, 1e-5)
    close(triton.add_rms_norm(x, delta, weight, 1e-5), expected)
    close(x, total)


def test_rows_that_no_program_can_hold_are_refused() -> None:
    x = torch.zeros(1, 16385)
    with pytest.raises(ValueError, match="16384"):
        triton.rms_norm(x, x[0], 1e-6)
