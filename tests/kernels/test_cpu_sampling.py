"""Sampling in C++: the reference op is the oracle, on every instruction set that this machine can run."""

from __future__ import annotations

import ctypes
import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.kernels.cpu.build import LIBRARY, X86_FLAGS
from octavo.kernels.cpu.sampling import Sampler
from tests.kernels.test_sampling import batch, sample, score

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="the CPU kernels were not compiled")

THREADS = (1, 2, 5)
ALLOWED = 0
"""A token that is never forbidden: the reference does not choose where everything is."""


def load(library: Path, threads: int) -> Sampler:
    loaded = ctypes.CDLL(str(library))
    loaded.octavo_isa.restype = ctypes.c_char_p
    loaded.octavo_pool_new.restype = ctypes.c_void_p
    return Sampler(loaded, loaded.octavo_pool_new(threads, None))


@pytest.fixture(scope="module", params=X86_FLAGS)
def samplers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Sampler]:
    """One for each of THREADS. The instruction set is chosen once by a library, so each has its own copy."""
    copy = tmp_path_factory.mktemp("library") / f"{request.param}.so"
    shutil.copy(LIBRARY, copy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OCTAVO_ISA", request.param)
        loaded = [load(copy, threads) for threads in THREADS]
        isa = loaded[0]._library.octavo_isa().decode()
    if isa != request.param:
        pytest.skip(f"this machine does not run {request.param}")
    return loaded


@pytest.fixture(scope="module")
def one(samplers: list[Sampler]) -> Sampler:
    return samplers[1]


def random_batch(rng: np.random.Generator, num_rows: int, vocab: int) -> SimpleNamespace:
    """Every feature in some of the rows, and all kinds of neighbours."""

    def entries(most: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and tokens, no two alike, in any order."""
        places = rng.permutation(num_rows * vocab)[: rng.integers(0, most)]
        return places // vocab, places % vocab

    seen_rows, seen_tokens = entries(8 * num_rows)
    bias_rows, bias_tokens = entries(4 * num_rows)
    repeated = rng.integers(0, 2, len(bias_rows)) == 1
    bias_rows, bias_tokens = np.r_[bias_rows, bias_rows[repeated]], np.r_[bias_tokens, bias_tokens[repeated]]
    bias_values = np.where(bias_tokens == ALLOWED, 0.5, rng.choice([-np.inf, -2.0, 0.5, 3.0], len(bias_rows)))
    mask_rows = np.flatnonzero(rng.random(num_rows) < 0.3)
    density = rng.choice([1, 3, 30, 32])
    bits = rng.integers(0, 32, (len(mask_rows), -(-vocab // 32) * 32), np.uint8) < density
    bits[:, ALLOWED] = True
    some = min(vocab, 7)
    return batch(
        num_rows,
        temperature=rng.choice([0.0, 0.3, 0.7, 1.0, 1.0, 2.5], num_rows),
        top_k=rng.choice([0, 0, 1, 3, 40, vocab - 1, vocab, vocab + 9], num_rows),
        top_p=rng.choice([1.0, 1.0, 0.97, 0.9, 0.41, 0.05], num_rows),
        min_p=rng.choice([0.0, 0.0, 0.02, 0.3, 1.0], num_rows),
        seeds=rng.integers(0, 2**64, num_rows, np.uint64),
        draws=rng.integers(0, 2**40, num_rows),
        repetition=rng.choice([1.0, 1.3, 0.8], num_rows),
        frequency=rng.choice([0.0, 0.2, -0.1], num_rows),
        presence=rng.choice([0.0, 0.5], num_rows),
        logprobs=rng.choice([-1, -1, 0, some], num_rows),
        candidates=rng.choice([0, 0, 0, some], num_rows),
        seen_rows=seen_rows,
        seen_tokens=seen_tokens,
        seen_counts=rng.integers(0, 4, len(seen_rows)),
        bias_rows=bias_rows,
        bias_tokens=bias_tokens,
        bias_values=bias_values,
        mask_rows=mask_rows,
        masks=np.packbits(bits, axis=-1, bitorder="little").view(np.uint32),
    )


def random_logits(rng: np.random.Generator, num_rows: int, vocab: int) -> np.ndarray:
    """Rows with a stride of their own; some with many equal logits, some with impossible tokens."""
    logits = rng.standard_normal((num_rows, vocab + 13)).astype(np.float32) * 3
    for row in logits:
        if rng.random() < 0.3:
            row[:] = np.round(row)
        if rng.random() < 0.2:
            row[rng.random(len(row)) < 0.5] = -np.inf
    logits[:, ALLOWED] = 1.0
    return logits[:, :vocab]


def assert_lists_agree(ours: Any, theirs: Any, row: int, count: int) -> None:
    """Which of equal tokens come, and in which order, is for each to decide: ours has the lowest first."""
    ids, values = ours[0][row, :count], ours[1][row, :count]
    assert values == pytest.approx(theirs[1][row, :count], abs=2e-5)
    assert np.lexsort((ids, -values)).tolist() == list(range(count))
    gaps = values[:-1] > values[1:] + 1e-4
    apart = np.r_[True, gaps][:count] & np.r_[gaps, False][:count]
    assert ids[apart].tolist() == theirs[0][row, :count][apart].tolist()


def assert_agree(ours: Any, theirs: Any, sampling: SimpleNamespace) -> None:
    assert [part is None for part in ours] == [part is None for part in theirs]
    for row, (asked, searched) in enumerate(zip(sampling.logprobs, sampling.candidates, strict=True)):
        if asked >= 0 and not searched:
            assert ours[1][row] == pytest.approx(theirs[1][row], abs=2e-5)
        if asked > 0:
            assert_lists_agree(ours[2:4], theirs[2:4], row, asked)
        if not searched:
            assert ours[0][row] == theirs[0][row]
        else:
            assert ours[0][row] == ours[4][row, 0]
            assert_lists_agree(ours[4:6], theirs[4:6], row, searched)


def assert_same(a: Any, b: Any) -> None:
    for x, y in zip(a, b, strict=True):
        assert (x is None and y is None) or x.tobytes() == y.tobytes()


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), num_rows=st.integers(1, 9), vocab=st.integers(8, 3000))
def test_whatever_is_asked_is_what_the_reference_does(
    one: Sampler, seed: int, num_rows: int, vocab: int
) -> None:
    rng = np.random.default_rng(seed)
    logits, sampling = random_logits(rng, num_rows, vocab), random_batch(rng, num_rows, vocab)
    before = logits.copy()
    assert_agree(one.sample(logits, sampling), sample(torch.from_numpy(before), sampling), sampling)
    assert logits.tobytes() == before.tobytes()


@pytest.mark.parametrize("vocab", [32_000, 49_152, 151_669])
def test_vocabularies_of_real_models(one: Sampler, vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    logits, sampling = random_logits(rng, 8, vocab), random_batch(rng, 8, vocab)
    assert_agree(one.sample(logits, sampling), sample(torch.from_numpy(logits.copy()), sampling), sampling)


@pytest.mark.parametrize(
    "cuts",
    [
        {"top_k": 50},
        {"top_k": 20_000},
        {"top_p": 0.9},
        {"top_p": 0.9, "top_k": 5000},
        {"top_p": 0.999, "temperature": 3.0},
        {"top_p": 0.3, "min_p": 0.2},
        {"min_p": 0.05},
    ],
)
@pytest.mark.parametrize("shape", ["flat", "peaked", "steps", "equal"])
def test_cuts_of_large_vocabularies(one: Sampler, cuts: dict[str, Any], shape: str) -> None:
    """Also where a cut leaves thousands of tokens, or thousands are equal at its threshold."""
    rng = np.random.default_rng(7)
    logits = rng.standard_normal((4, 40_000)).astype(np.float32)
    if shape == "peaked":
        logits *= 6
    elif shape == "steps":
        logits = np.round(logits)
    elif shape == "equal":
        logits[:] = 2.5
    for draw in range(4):
        sampling = batch(4, seeds=np.arange(4), draws=draw, **cuts)
        assert_agree(one.sample(logits, sampling), sample(torch.from_numpy(logits), sampling), sampling)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), num_rows=st.integers(1, 12), vocab=st.integers(8, 30_000))
def test_neither_threads_nor_other_rows_change_a_row(
    samplers: list[Sampler], seed: int, num_rows: int, vocab: int
) -> None:
    rng = np.random.default_rng(seed)
    logits, sampling = random_logits(rng, num_rows, vocab), random_batch(rng, num_rows, vocab)
    together = samplers[0].sample(logits, sampling)
    for other in samplers[1:]:
        assert_same(other.sample(logits, sampling), together)
    row = int(rng.integers(0, num_rows))
    alone = samplers[2].sample(logits[row : row + 1], only(sampling, row))
    assert alone[0][0] == together[0][row]
    for part, asked in ((2, sampling.logprobs[row]), (4, sampling.candidates[row])):
        if asked > 0:
            assert_same([x[0, :asked] for x in alone[part : part + 2]],
                        [x[row, :asked] for x in together[part : part + 2]])  # fmt: skip
    if sampling.logprobs[row] >= 0:
        assert alone[1][0] == together[1][row]


def only(sampling: SimpleNamespace, row: int) -> SimpleNamespace:
    """One row's batch."""
    fields = dict(vars(sampling))
    masks = fields.pop("masks")()
    for prefix in ("seen", "bias"):
        chosen = fields[f"{prefix}_rows"] == row
        for name in [name for name in fields if name.startswith(f"{prefix}_")]:
            fields[name] = fields[name][chosen] * (0 if name.endswith("rows") else 1)
    masked = fields.pop("mask_rows") == row
    sparse = {name: v for name, v in fields.items() if name.startswith(("seen_", "bias_"))}
    rows = {name: v[row] for name, v in fields.items() if name not in sparse}
    return batch(1, **rows, **sparse, mask_rows=[0] * masked.sum(), masks=masks[masked])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(one: Sampler, temperature: float) -> None:
    """χ² over 20,000 draws of ten tokens, against its 99.9 % quantile for nine degrees of freedom."""
    logits = np.random.default_rng(1).standard_normal(10).astype(np.float32) * 2
    count = 20_000
    sampling = batch(count, temperature=temperature, draws=np.arange(count))
    chosen = one.sample(np.broadcast_to(logits, (count, 10)), sampling)[0]
    expected = torch.softmax(torch.from_numpy(logits) / temperature, -1).numpy() * count
    likely = expected > 5
    observed = np.bincount(chosen, minlength=10)
    assert ((observed - expected)[likely] ** 2 / expected[likely]).sum() < 27.9


def test_equal_logits_are_told_apart_by_their_ids(one: Sampler) -> None:
    logits = np.zeros((2, 700), np.float32)
    logits[1, [650, 40, 333]] = 5.0
    tokens, _, top_ids, _, best_ids, _ = one.sample(
        logits, batch(2, temperature=0, logprobs=[4, -1], candidates=[0, 4])
    )
    assert tokens.tolist() == [0, 40]
    assert top_ids is not None
    assert best_ids is not None
    assert top_ids[0].tolist() == [0, 1, 2, 3]
    assert best_ids[1].tolist() == [40, 333, 650, 0]


def test_masks_are_asked_for_only_where_rows_have_any(one: Sampler) -> None:
    def never() -> np.ndarray:
        raise AssertionError

    sampling = batch(1, temperature=0)
    sampling.masks = never
    assert one.sample(np.eye(1, 40, 7, np.float32), sampling)[0].tolist() == [7]
    assert one.sample(np.eye(1, 40, 7, np.float32), sampling)[1:] == (None,) * 5


def test_a_broken_row_yields_a_token_all_the_same(one: Sampler) -> None:
    """Of NaN, or with everything forbidden: any token, but one of the vocabulary."""
    logits = np.full((6, 1000), np.nan, np.float32)
    logits[3:] = -np.inf
    sampling = batch(6, top_k=[0, 5, 0, 0, 5, 0], top_p=[1, 1, 0.5, 1, 1, 0.5], logprobs=2)
    tokens = one.sample(logits, sampling)[0]
    assert ((tokens >= 0) & (tokens < 1000)).all()


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), num_rows=st.integers(1, 9), vocab=st.integers(8, 3000))
def test_scores_are_those_of_the_reference(
    samplers: list[Sampler], seed: int, num_rows: int, vocab: int
) -> None:
    rng = np.random.default_rng(seed)
    logits, most = random_logits(rng, num_rows, vocab), int(rng.integers(0, 6))
    targets = rng.integers(0, vocab, num_rows).astype(np.int32)
    ours = samplers[1].score(logits, targets, most)
    theirs = score(torch.from_numpy(logits), targets, most)
    assert ours[0] == pytest.approx(theirs[0], abs=2e-5)
    for row in range(num_rows):
        assert_lists_agree(ours[1:], theirs[1:], row, most)
    for other in samplers:
        assert_same(other.score(logits, targets, most), ours)


def test_no_rows_are_no_work(one: Sampler) -> None:
    empty = np.empty((0, 100), np.float32)
    assert len(one.sample(empty, batch(0))[0]) == 0
    assert len(one.score(empty, np.empty(0, np.int32), 0)[0]) == 0
