"""Products of quantised weights on the CPU: exact on what is stored, close to the floats it came from."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.kernels.cpu.build import X86_FLAGS
from octavo.kernels.cpu.library import ACTIVATIONS, SOURCE_TYPES, Form, Linear, Product, is_available, library
from octavo.kernels.cpu.quantized import GGML_SOURCE, form_of_types, is_computable

pytestmark = [
    pytest.mark.skipif(not is_available(), reason="the CPU kernels are not compiled"),
    pytest.mark.usefixtures("all_processors"),
]

QUANTIZED = [form for form in Form if form >= Form.INT8]
STORE, ADD, GATE = range(3)
GGML = gguf.GGMLQuantizationType
TYPES = [GGML.Q4_0, GGML.Q4_1, GGML.Q5_0, GGML.Q5_1, GGML.Q8_0, GGML.Q4_K, GGML.Q5_K, GGML.Q6_K]
GROUP = np.dtype([("q", "i1", 32), ("scale", "f4"), ("sum", "f4"), ("corrections", "i4", 2)])


@cache
def pool() -> int:
    return library().octavo_pool_new(2, None)


class Packed:
    """A matrix [n, k] in a quantised form."""

    def __init__(self, form: Form, n: int, k: int, bias: np.ndarray | None = None) -> None:
        self.form, self.n, self.k = form, n, k
        self._data = np.zeros(library().octavo_linear_bytes(form, n, k) + 64, np.uint8)
        self._bias = bias
        address = -(-self._data.ctypes.data // 64) * 64
        self.linear = Linear(form, n, k, address, None if bias is None else bias.ctypes.data)

    @classmethod
    def of(cls, form: Form, weight: np.ndarray, bias: np.ndarray | None = None) -> Packed:
        packed = cls(form, *weight.shape, bias)
        packed.put(weight, SOURCE_TYPES["float32"])
        return packed

    def put(
        self, rows: np.ndarray, source_type: int, first: int = 0, run: int = 1 << 30, jump: int = 0
    ) -> None:
        rows = np.ascontiguousarray(rows)
        library().octavo_pack(pool(), self.linear, first, run, jump, rows.ctypes.data, source_type, len(rows))

    def floats(self, length: int | None = None) -> np.ndarray:
        """[n, k], or [n, length] with some of what rows are padded with."""
        out = np.empty((self.n, length or self.k), np.float32)
        linear = Linear(self.form, self.n, out.shape[1], self.linear.data, None)
        for i, row in enumerate(out):
            library().octavo_unpack_row(linear, i, row.ctypes.data)
        return out

    def activations(self, x: np.ndarray) -> np.ndarray:
        """Rows as they are multiplied, in bytes."""
        stride = library().octavo_activation_bytes(self.form, self.k)
        out = np.zeros((len(x), stride), np.uint8)
        library().octavo_to_activations(self.form, x.ctypes.data, len(x), self.k, out.ctypes.data)
        return out

    def product(self, x: np.ndarray, out: np.ndarray, finish: int = STORE) -> np.ndarray:
        """Into `out`, whose rows are as long as whole panels."""
        a = self.activations(x)
        product = Product(
            ctypes.pointer(self.linear), a.ctypes.data, a.shape[1], len(x), out.ctypes.data, out.shape[1],
            finish, ACTIVATIONS["silu"], False,
        )  # fmt: skip
        library().octavo_product(pool(), product)
        return out


def integers_and_scales(form: Form, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Of activations: integers [rows, k padded to whole groups], and the scale of each as float32."""
    if form == Form.INT8:
        length = -(-k // 64) * 64
        # Of 16 bits without VPDPBUSD, with the second and the third of every four changed round.
        size = 2 if rows.shape[1] >= length * 2 + 8 else 1
        q = rows[:, : length * size].view(f"i{size}")
        if size == 2:
            q = q.reshape(len(rows), -1, 4)[:, :, [0, 2, 1, 3]].reshape(len(rows), -1)
        scale = np.ascontiguousarray(rows[:, length * size : length * size + 4]).view("f4")
        return q, np.repeat(scale, length, axis=1)
    count = -(-k // 32)
    groups = np.ascontiguousarray(rows[:, : count * GROUP.itemsize]).view(GROUP)
    return groups["q"].reshape(len(rows), -1), np.repeat(groups["scale"], 32, axis=1)


SIGNS = np.array([-1 if (i & i >> 1 ^ i >> 2 & i >> 3 ^ i >> 4 & i >> 5) & 1 else 1 for i in range(64)])
"""What elements are multiplied by before Walsh and Hadamard's sums."""


def sums(x: np.ndarray) -> np.ndarray:
    """Walsh and Hadamard's, of every 64 numbers of a row, in the kernels' order."""
    for distance in (16, 32, 1, 2, 4, 8):
        pairs = x.reshape(len(x), -1, 2, distance)
        x = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2).reshape(
            x.shape
        )
    return x


def transformed(x: np.ndarray) -> np.ndarray:
    """Rows as INT8 rounds them, padded with zeros."""
    x = np.pad(x, ((0, 0), (0, -x.shape[1] % 64)))
    return sums(x * np.resize(SIGNS, x.shape[1]).astype(x.dtype))


def transformed_back(x: np.ndarray) -> np.ndarray:
    return sums(x) * np.resize(SIGNS, x.shape[1]) / 64


def stored(form: Form, rows: np.ndarray, k: int) -> np.ndarray:
    """What activations stand for, [rows, k padded to whole groups]: not quite 0 where INT8 is padded."""
    q, scale = integers_and_scales(form, rows, k)
    values = q * scale.astype(float)
    return transformed_back(values) if form == Form.INT8 else values


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def padded(n: int) -> int:
    return -(-n // 32) * 32


@pytest.mark.parametrize("form", [Form.INT8, Form.GROUP4])
@pytest.mark.parametrize("k", [576, 100])
def test_activations_are_rounded_to_the_nearest_of_255_steps(form: Form, k: int) -> None:
    x = normal(3, k) * np.float32([[1], [1e-3], [0]])
    q, scale = integers_and_scales(form, Packed(form, 32, k).activations(x), k)

    if form == Form.INT8:
        x = transformed(x)
    length = x.shape[1] if form == Form.INT8 else 32
    for i in range(0, k, length):
        group = x[:, i : i + length]
        most = np.abs(group).max(axis=1, keepdims=True)
        inverse = np.divide(np.float32(127), most, out=np.zeros_like(most), where=most > 0)
        np.testing.assert_array_equal(q[:, i : i + group.shape[1]], np.rint(group * inverse))
        np.testing.assert_allclose(scale[:, i : i + 1], most / 127, rtol=1e-6)


@pytest.mark.parametrize("k", [32, 100, 576])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 12, 13, 40])
@pytest.mark.parametrize("form", QUANTIZED)
def test_product_is_that_of_the_stored_numbers(form: Form, rows: int, k: int) -> None:
    packed = Packed.of(form, normal(80, k))
    x = normal(rows, k, seed=1)

    out = packed.product(x, np.empty((rows, 96), np.float32))

    numbers = stored(form, packed.activations(x), k)
    expected = numbers @ packed.floats(numbers.shape[1]).T.astype(float)
    np.testing.assert_allclose(out[:, :80], expected, atol=2e-6 * k, rtol=1e-5)
    assert not out[:, 80:].any()


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("form", QUANTIZED)
def test_product_is_added_or_gated(form: Form, with_bias: bool) -> None:
    bias = normal(64, seed=2) if with_bias else None
    packed = Packed.of(form, normal(64, 96) / 10, bias)
    x = normal(5, 96, seed=1)
    plain = packed.product(x, np.empty((5, 64), np.float32))
    without_bias = Packed.of(form, normal(64, 96) / 10).product(x, np.empty((5, 64), np.float32))
    np.testing.assert_allclose(plain, without_bias + (bias if with_bias else np.float32(0)), atol=1e-5)

    before = normal(5, 64, seed=3)
    np.testing.assert_allclose(packed.product(x, before.copy(), ADD), before + plain, atol=1e-6)

    gate, up = plain.reshape(5, 2, 2, 16).swapaxes(0, 2)
    expected = (gate / (1 + np.exp(-gate)) * up).swapaxes(0, 1).reshape(5, 32)
    np.testing.assert_allclose(packed.product(x, np.empty((5, 32), np.float32), GATE), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "error"), [(Form.INT8, 0.014), (Form.GROUP8_CENTRED, 0.012), (Form.GROUP6_CENTRED16, 0.03),
                        (Form.GROUP5, 0.04), (Form.GROUP4, 0.08)],
)  # fmt: skip
def test_product_is_close_to_that_of_the_floats(form: Form, error: float) -> None:
    weight, x = normal(256, 576), normal(16, 576, seed=1)

    out = Packed.of(form, weight).product(x, np.empty((16, 256), np.float32))

    exact = x @ weight.T
    assert np.linalg.norm(out - exact) / np.linalg.norm(exact) < error


@pytest.mark.parametrize("standing_out", ["one", "all", "every second"])
def test_what_stands_out_costs_the_rest_little(standing_out: str) -> None:
    """Without the transform 0.13 would be wrong with one; without its signs 0.10 with all, 0.06 else."""
    x, weight = normal(16, 576), normal(256, 576, seed=1)
    more = np.zeros(576, np.float32)
    if standing_out == "one":
        more[100] = 60
    else:
        more[:: 1 if standing_out == "all" else 2] = 5

    out = Packed.of(Form.INT8, weight).product(x + more, np.empty((16, 256), np.float32))

    exact = (x + more) @ weight.T
    assert np.linalg.norm(out - exact) / np.linalg.norm(x @ weight.T) < 0.05


@pytest.mark.parametrize("form", QUANTIZED)
@settings(max_examples=20)
@given(data=st.data())
def test_a_row_does_not_depend_on_what_runs_beside_it(form: Form, data: st.DataObject) -> None:
    x, before = normal(40, 96, seed=1), normal(40, 64, seed=3)
    packed = Packed.of(form, normal(64, 96), normal(64, seed=2))

    rows = data.draw(st.lists(st.integers(0, 39), min_size=1, max_size=40))

    for finish in (STORE, ADD, GATE):
        together = packed.product(x, before.copy(), finish)
        np.testing.assert_array_equal(packed.product(x[rows], before[rows], finish), together[rows])


@pytest.mark.parametrize("form", [Form.F32, Form.BF16, Form.INT8, Form.GROUP4])
def test_neither_does_one_of_many_long_rows(form: Form) -> None:
    """Which go by blocks of rows, and where there are tiles by slices of k, too."""
    x, before, weight = normal(600, 1600, seed=1), normal(600, 64, seed=3), normal(64, 1600) / 40
    packed = Packed(form, 64, 1600, normal(64, seed=2))
    packed.put(weight, SOURCE_TYPES["float32"])

    for finish in (STORE, ADD, GATE):
        together = packed.product(x, before.copy(), finish)
        for first, last in (0, 1), (100, 117), (150, 183), (300, 500), (591, 600):
            of_these = packed.product(x[first:last].copy(), before[first:last].copy(), finish)
            np.testing.assert_array_equal(of_these, together[first:last])

    exact = x @ weight.T + normal(64, seed=2)
    out = packed.product(x, np.empty_like(exact))
    assert np.linalg.norm(out - exact) / np.linalg.norm(exact) < (0.08 if form == Form.GROUP4 else 0.014)


def random_blocks(ggml_type: GGML, rows: int, k: int) -> np.ndarray:
    """Rows of any valid blocks, as bytes."""
    length, num_bytes = gguf.GGML_QUANT_SIZES[ggml_type]
    rng = np.random.default_rng(7)
    blocks = rng.integers(0, 256, (rows, k // length, num_bytes), np.uint8)
    scales = {GGML.Q6_K: [208], GGML.Q4_0: [0], GGML.Q5_0: [0], GGML.Q8_0: [0]}.get(ggml_type, [0, 2])
    for at in scales:
        values = rng.uniform(-0.02, 0.02, (rows, k // length, 1)).astype(np.float16)
        blocks[:, :, at : at + 2] = values.view(np.uint8)
    return blocks.reshape(rows, -1)


@pytest.mark.parametrize("ggml_type", TYPES)
def test_gguf_blocks_keep_their_values(ggml_type: GGML) -> None:
    blocks = random_blocks(ggml_type, 40, 512)
    form = form_of_types([ggml_type])
    packed = Packed(form, 40, 512)

    packed.put(blocks, GGML_SOURCE + ggml_type)

    expected = gguf.dequantize(blocks, ggml_type)
    if ggml_type in (GGML.Q4_K, GGML.Q5_K, GGML.Q6_K):  # scales are products, rounded to float16
        most = np.abs(expected.reshape(40, -1, 32)).max(axis=2).repeat(32, axis=1)
        assert (np.abs(packed.floats() - expected) <= most * 2**-10 + 1e-7).all()
    else:
        np.testing.assert_allclose(packed.floats(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("form", [Form.INT8, Form.GROUP8_CENTRED])
def test_gguf_blocks_can_be_rounded_anew(form: Form) -> None:
    blocks = random_blocks(GGML.Q4_K, 32, 512)
    packed = Packed(form, 32, 512)

    packed.put(blocks, GGML_SOURCE + GGML.Q4_K)

    expected = gguf.dequantize(blocks, GGML.Q4_K)
    assert np.linalg.norm(packed.floats() - expected) < 0.01 * np.linalg.norm(expected)


def test_types_that_share_a_matrix_share_a_form() -> None:
    assert form_of_types([GGML.Q4_K, GGML.Q4_1]) == Form.GROUP4
    assert form_of_types([GGML.Q4_K, GGML.Q6_K]) == Form.GROUP8_CENTRED
    with pytest.raises(ValueError, match="type 19"):
        form_of_types([GGML.IQ1_S])


def test_rows_of_part_of_a_block_cannot_be_packed() -> None:
    assert is_computable(GGML.Q4_K, 512)
    assert not is_computable(GGML.Q4_K, 576)
    assert not is_computable(GGML.IQ1_S, 512)


@pytest.mark.parametrize("form", QUANTIZED)
def test_gate_and_up_lie_by_turns(form: Form) -> None:
    gate, up = normal(48, 64), normal(48, 64, seed=1)
    packed = Packed(form, 96, 64)

    packed.put(gate, SOURCE_TYPES["float32"], 0, 16, 32)
    packed.put(up, SOURCE_TYPES["float32"], 16, 16, 32)

    turns = packed.floats().reshape(3, 2, 16, 64).swapaxes(0, 1)
    np.testing.assert_array_equal(turns[0].reshape(48, 64), Packed.of(form, gate).floats())
    np.testing.assert_array_equal(turns[1].reshape(48, 64), Packed.of(form, up).floats())


@pytest.mark.parametrize("form", [Form.INT8, Form.GROUP4])
def test_weights_may_have_two_bytes(form: Form) -> None:
    weight = normal(32, 100).astype(np.float16)
    halves = Packed(form, 32, 100)
    halves.put(weight, SOURCE_TYPES["float16"])
    np.testing.assert_array_equal(halves.floats(), Packed.of(form, weight.astype(np.float32)).floats())

    bits = normal(32, 100).view(np.uint32) >> 16
    brains = Packed(form, 32, 100)
    brains.put(bits.astype(np.uint16), SOURCE_TYPES["bfloat16"])
    np.testing.assert_array_equal(brains.floats(), Packed.of(form, (bits << 16).view(np.float32)).floats())


def test_four_bits_are_fitted_better_than_from_least_to_most() -> None:
    weight = normal(64, 576)
    groups = weight.reshape(-1, 32)
    low, step = groups.min(axis=1, keepdims=True), np.ptp(groups, axis=1, keepdims=True) / 15
    plain = (np.rint((groups - low) / step) * step + low).reshape(weight.shape)

    fitted = Packed.of(Form.GROUP4, weight).floats()

    assert np.square(fitted - weight).sum() < 0.9 * np.square(plain - weight).sum()


@pytest.mark.parametrize("form", QUANTIZED)
def test_weights_that_are_all_alike_stay(form: Form) -> None:
    np.testing.assert_array_equal(Packed.of(form, np.zeros((32, 64), np.float32)).floats(), 0)
    np.testing.assert_allclose(Packed.of(form, np.full((32, 64), 0.5, np.float32)).floats(), 0.5, rtol=1e-3)


@pytest.mark.skipif("OCTAVO_ISA" in os.environ, reason="this is one of the others")
@pytest.mark.parametrize("isa", X86_FLAGS)
def test_other_instruction_sets_do_the_same(isa: str) -> None:
    if isa == library().octavo_isa().decode():
        pytest.skip("the other tests are run with it")
    environment = {**os.environ, "OCTAVO_ISA": isa}
    name = "from octavo.kernels.cpu.library import library; print(library().octavo_isa().decode())"
    found = subprocess.run([sys.executable, "-c", name], env=environment, capture_output=True, text=True)
    if found.stdout.strip() != isa:
        pytest.skip(f"this processor has no {isa}")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--durations=0",
        "-p",
        "no:cacheprovider",
        Path(__file__),
    ]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:]
