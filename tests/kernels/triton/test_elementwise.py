"""Rotation and gated activations against the reference, computed in float32."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.kernels import reference, triton
from tests.kernels.triton.tolerances import DTYPES, close

pytestmark = [
    pytest.mark.usefixtures("triton_kernels"),
    pytest.mark.filterwarnings(
        "ignore:overflow encountered in exp:RuntimeWarning"
    ),  # NumPy's; a card says nothing
]


@settings(max_examples=40, derandomize=True)
@given(
    num_tokens=st.integers(0, 5),
    num_heads=st.integers(1, 9),
    dims=st.sampled_from([(64, 64), (80, 80), (96, 96), (128, 128), (256, 256), (64, 32), (80, 20)]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**20),
)
def test_heads_are_rotated_wholly_or_in_part(
    num_tokens: int, num_heads: int, dims: tuple[int, int], dtype: torch.dtype, seed: int
) -> None:
    head_dim, rotary_dim = dims
    generator = torch.Generator().manual_seed(seed)
    heads = torch.randn(num_tokens, num_heads + 3, head_dim, generator=generator).to(dtype)
    angles = 6.3 * torch.rand(num_tokens, 1, rotary_dim // 2, generator=generator)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    x = heads[:, 1 : 1 + num_heads]
    expected = reference.rotary(x.float(), cos.float(), sin.float()).to(dtype)
    close(triton.rotary(x, cos, sin), expected)


@settings(max_examples=30, derandomize=True)
@given(
    num_tokens=st.integers(0, 5),
    n=st.sampled_from([1, 128, 1000, 1536, 2048]),
    activation=st.sampled_from(["silu", "gelu", "gelu_tanh"]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**20),
)
def test_gated_activations(num_tokens: int, n: int, activation: str, dtype: torch.dtype, seed: int) -> None:
    x = 3 * torch.randn(num_tokens, 2 * n, generator=torch.Generator().manual_seed(seed))
    x = x.to(dtype)
    expected = reference.gated_activation(x.float(), activation).to(dtype)
    close(triton.gated_activation(x, activation), expected)


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
def test_gates_far_from_zero_stay_finite(activation: str) -> None:
    x = torch.tensor([[-200.0, -30.0, 30.0, 200.0, 1.0, 1.0, 1.0, 1.0]])
    close(triton.gated_activation(x, activation), reference.gated_activation(x, activation))


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="relu6"):
        triton.gated_activation(torch.zeros(1, 4), "relu6")
