"""Linear layers with weights of 8 and 4 bits against the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from octavo.kernels import reference, triton
from octavo.kernels.reference import quantized as oracle
from octavo.kernels.triton import quantized
from tests.conftest import GPU_OR_CPU
from tests.kernels.triton.tolerances import DTYPES, OF_FLOAT8, close

pytestmark = pytest.mark.usefixtures("triton_kernels")
INTERPRETED = pytest.mark.skipif(GPU_OR_CPU != "cpu", reason="the GPU here has one form of float8, or none")

FORMS = [("fp8", None), ("fp8_weights", None), ("int8", None)] + [
    (form, group) for form in ("int8", "int4") for group in (32, 64, 128)
]


def layer_of(m: int, n: int, form: str, group: int | None, dtype: torch.dtype, *, bias: bool = True) -> Any:
    generator = torch.Generator().manual_seed(m * n)
    weight = torch.randn(m, n, generator=generator) / n**0.5
    return reference.pack_quantized(
        weight.to(dtype), torch.randn(m, generator=generator).to(dtype) if bias else None, form, group
    )


def rows(num_tokens: int, n: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(num_tokens, n, generator=torch.Generator().manual_seed(num_tokens)).to(dtype)


def check(actual: torch.Tensor, x: torch.Tensor, layer: Any) -> None:
    inexact = layer.form == "fp8" and GPU_OR_CPU == "cuda"
    close(actual, reference.quantized_linear(x, layer), OF_FLOAT8 if inexact else 0.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("form", "group"), FORMS)
def test_all_forms_and_types(form: str, group: int | None, dtype: torch.dtype) -> None:
    layer = layer_of(96, 384, form, group, dtype)
    x = rows(17, 384, dtype)
    check(triton.quantized_linear(x, layer), x, layer)


@pytest.mark.no_cover
@settings(max_examples=40, derandomize=True)
@given(
    num_tokens=st.integers(0, 70),
    m=st.integers(1, 130),
    n=st.integers(1, 300),
    form=st.sampled_from(["fp8", "fp8_weights", "int8"]),
    bias=st.booleans(),
    num_splits=st.integers(1, 4),
)
def test_sizes_that_fill_no_tile(
    num_tokens: int, m: int, n: int, form: str, bias: bool, num_splits: int
) -> None:
    layer = layer_of(m, n, form, None, torch.float32, bias=bias)
    x = rows(num_tokens, n, torch.float32)
    check(quantized.multiply(x, layer, num_splits), x, layer)


@pytest.mark.no_cover
@settings(max_examples=40, derandomize=True)
@given(
    num_tokens=st.integers(1, 140),
    m=st.integers(1, 130),
    num_groups=st.integers(1, 7),
    group=st.sampled_from([32, 64, 128]),
    form=st.sampled_from(["int8", "int4"]),
    num_splits=st.integers(1, 4),
)
@example(num_tokens=100, m=70, num_groups=3, group=128, form="int4", num_splits=2)  # cut within a group
def test_groups_that_fill_no_tile(
    num_tokens: int, m: int, num_groups: int, group: int, form: str, num_splits: int
) -> None:
    layer = layer_of(m, num_groups * group, form, group, torch.float32)
    x = rows(num_tokens, num_groups * group, torch.float32)
    check(quantized.multiply(x, layer, num_splits), x, layer)


@pytest.mark.parametrize("num_tokens", [30, 100, 260])
def test_enough_rows_for_the_larger_tiles(num_tokens: int) -> None:
    for form, group in FORMS:
        layer = layer_of(130, 128, form, group, torch.float32)
        x = rows(num_tokens, 128, torch.float32)
        check(triton.quantized_linear(x, layer), x, layer)


@pytest.mark.parametrize("form", ["int8", "fp8_weights", "int4"])
def test_rows_that_lie_apart(form: str) -> None:
    layer = layer_of(64, 128, form, 64 if form == "int4" else None, torch.bfloat16)
    x = rows(5, 200, torch.bfloat16)[:, 8:136]
    check(triton.quantized_linear(x, layer), x, layer)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.float8_e4m3fn, pytest.param(torch.float8_e4m3fnuz, marks=INTERPRETED)]
)
def test_activations_are_rounded_as_the_reference_does(dtype: torch.dtype) -> None:
    check_rounding(rows(9, 5000, torch.float32), dtype, transformed=False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_transformed_is_added_up_as_the_reference_does(dtype: torch.dtype) -> None:
    check_rounding(rows(9, 4992, dtype), torch.int8, transformed=True)


def check_rounding(x: torch.Tensor, dtype: torch.dtype, *, transformed: bool) -> None:
    x[3] = 0.0
    ours, expected = (room.quantize_rows(x, dtype, transformed) for room in (quantized, oracle))
    for actual, wanted in zip(ours, expected, strict=True):
        assert torch.equal(actual.float(), wanted.float())


def test_a_transform_leaves_products_as_they_are_and_spreads_what_stands_out() -> None:
    x, weight = rows(8, 192, torch.float32), rows(5, 192, torch.float32)
    x[:, 70] = 100.0
    moved = oracle.hadamard(x)
    torch.testing.assert_close(moved @ oracle.hadamard(weight).T, x @ weight.T, atol=1e-3, rtol=1e-5)
    assert moved.abs().amax() < 20
    # A pattern that comes again and again is spread as well.
    constant = torch.ones(1, 64)
    for pattern in (constant, constant * torch.tensor([1.0, -1.0] * 32)):
        assert oracle.hadamard(pattern).abs().amax() <= 1.0 + 1e-6


@INTERPRETED
def test_float8_of_other_gpus() -> None:
    """AMD's has no negative zero and another bias."""
    weight, x = torch.randn(40, 128), rows(6, 128, torch.float32)
    layer = oracle.pack_quantized(weight, None, "fp8", None, torch.float8_e4m3fnuz)
    check(triton.quantized_linear(x, layer), x, layer)


@pytest.mark.parametrize(("form", "group"), FORMS)
def test_rounding_costs_no_more_than_its_step(form: str, group: int | None) -> None:
    """Of the reference itself, against the exact product: a step has a variance of a twelfth."""
    weight, x = rows(64, 512, torch.float32), rows(32, 512, torch.float32)
    exact = x @ weight.T
    error = (reference.quantized_linear(x, reference.pack_quantized(weight, None, form, group)) - exact).std()
    assert error / exact.std() < (0.12 if form == "int4" else 0.04)


def test_every_weight_of_float8_is_widened_exactly() -> None:
    bits = torch.arange(256, dtype=torch.uint8)
    weight = bits.view(torch.float8_e4m3fn)[~bits.view(torch.float8_e4m3fn).float().isnan()][:, None]
    layer = oracle.QuantizedLinear("fp8_weights", weight, torch.ones(len(weight), 1), None, None)
    assert torch.equal(triton.quantized_linear(torch.ones(1, 1), layer)[0], weight.float()[:, 0])


@pytest.mark.parametrize(
    ("form", "group", "complaint"),
    [
        ("int3", None, "form is"),
        ("int4", None, "group: int4"),
        ("int4", 48, "group is 32, 64 or 128"),
        ("int8", 128, "divides the columns, 192"),
        ("fp8", 64, "group: fp8.* has one scale"),
    ],
)
def test_what_cannot_be_packed_is_refused(form: str, group: int | None, complaint: str) -> None:
    for room in (reference, triton):
        with pytest.raises(ValueError, match=complaint):
            room.pack_quantized(torch.randn(4, 192), None, form, group)


@INTERPRETED
def test_without_products_of_fp8_only_weights_are() -> None:
    """The interpreter passes for an A100, which has none."""
    assert triton.pack_quantized(torch.randn(4, 8), None, "fp8").form == "fp8_weights"
