"""Low-rank adapters against the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.kernels import reference, triton
from octavo.kernels.triton.adapters import _add
from tests.kernels.triton.tolerances import DTYPES, close

pytestmark = pytest.mark.usefixtures("triton_kernels")

NUM_ADAPTERS = 5


def world(
    num_rows: int, n: int, m: int, rank: int, dtype: torch.dtype, seed: int = 0
) -> tuple[torch.Tensor, ...]:
    """output, x, a and b."""
    generator = torch.Generator().manual_seed(seed)
    sizes = ((num_rows, m), (num_rows, n), (NUM_ADAPTERS, rank, n), (NUM_ADAPTERS, m, rank))
    output, x, a, b = (torch.randn(size, generator=generator) for size in sizes)
    return tuple(t.to(dtype) for t in (output, x, a / n**0.5, b / rank**0.5))


def both(
    adapters: np.ndarray, output: torch.Tensor, *inputs: torch.Tensor, num_splits: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    ours, expected = output.clone(), output.clone()
    _add(ours, *inputs, triton.plan_adapters(adapters, NUM_ADAPTERS, output), num_splits)
    reference.add_adapters(expected, *inputs, reference.plan_adapters(adapters, NUM_ADAPTERS, output))
    return ours, expected


@pytest.mark.no_cover
@settings(max_examples=40, derandomize=True)
@given(
    adapters=st.lists(st.integers(-1, NUM_ADAPTERS - 1), min_size=1, max_size=70),
    n=st.integers(1, 300),
    m=st.integers(1, 200),
    rank=st.sampled_from([1, 5, 8, 16, 48, 64]),
    dtype=st.sampled_from(DTYPES),
    num_splits=st.sampled_from([None, 1, 3]),
)
def test_batches_of_any_mixture(
    adapters: list[int], n: int, m: int, rank: int, dtype: torch.dtype, num_splits: int | None
) -> None:
    close(
        *both(
            np.array(adapters, np.int32),
            *world(len(adapters), n, m, rank, dtype),
            num_splits=num_splits,
        )
    )


def test_many_rows_of_one_adapter() -> None:
    close(*both(np.full(130, 2, np.int32), *world(130, 96, 80, 16, torch.float32)))


def test_rows_of_none_are_left_as_they_are() -> None:
    output, x, a, b = world(4, 64, 64, 8, torch.bfloat16)
    before = output.clone()
    triton.add_adapters(output, x, a, b, triton.plan_adapters(np.full(4, -1, np.int32), NUM_ADAPTERS, x))
    assert torch.equal(output, before)


def test_a_part_of_a_wider_output() -> None:
    """Queries, keys and values have adapters of their own and one product."""
    output, x, a, b = world(6, 64, 96, 8, torch.float32)
    adapters = np.array([0, 3, 3, -1, 1, 0], np.int32)
    part, expected = output.clone(), output[:, 32:80].clone()
    triton.add_adapters(part[:, 32:80], x, a, b[:, :48].contiguous(), triton.plan_adapters(adapters, 5, x))
    reference.add_adapters(expected, x, a, b[:, :48], reference.plan_adapters(adapters, 5, x))
    close(part[:, 32:80].contiguous(), expected)
    assert torch.equal(part[:, :32], output[:, :32])
    assert torch.equal(part[:, 80:], output[:, 80:])


def test_a_rank_too_high_is_refused() -> None:
    with pytest.raises(ValueError, match="rank: adapters have at most 64"):
        both(np.zeros(2, np.int32), *world(2, 64, 64, 65, torch.float32))
