"""What ops take at least on a card, as the documentation has it, and what is measured where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks import kernels

from octavo.kernels.triton import activation, attention_variants, kv_cache, norm, roofline
from octavo.kernels.triton import tune as tuner
from octavo.kernels.triton.architectures import CARDS, Card

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "gpu.md"
CPU = torch.device("cpu")


def test_the_documentation_has_the_table_that_the_kernels_give() -> None:
    """`python -m octavo.kernels.triton.roofline docs/gpu.md` writes it."""
    text = DOCUMENTATION.read_text()
    assert roofline.written(text, roofline.table(roofline.all_workloads())) == text


def test_the_slower_of_memory_and_arithmetic_is_the_bound() -> None:
    card = Card("", "sm_90", memory=100.0, rates={"bf16": 1000.0})
    workload = attention_variants.workload(1, 1, 64, int8=False)
    assert roofline.bound(workload, card) == "memory"
    assert roofline.seconds(workload, card) == workload.bytes / 100
    prefill = attention_variants.workload(1, 512, 512, int8=False)
    assert roofline.bound(prefill, card) == "bf16"
    assert roofline.seconds(prefill, card) == prefill.flops / 1000


def test_attention_counts_the_pairs_that_see_each_other_and_the_context_once() -> None:
    workload = attention_variants.workload(2, 3, 10, int8=False, dim=64)
    pairs = 2 * (8 + 9 + 10)
    assert workload.flops == pairs * 32 * 64 * 4, "a product with a key and one with a value"
    queries_and_outputs, keys_and_values = 2 * 2 * 3 * 32 * 64, 2 * 2 * 10 * 8 * 64
    assert workload.bytes == 2 * (queries_and_outputs + keys_and_values)


def test_every_unit_has_a_rate_on_every_card() -> None:
    units = {workload.unit for workload in roofline.all_workloads()}
    assert all(units <= card.rates.keys() for card in CARDS)


@pytest.mark.usefixtures("triton_kernels")
def test_what_is_measured_runs() -> None:
    """At small sizes, in the interpreter."""
    assert norm._prepare(3, 64, CPU)().shape == (3, 64)
    assert activation._prepare(3, 64, CPU)().shape == (3, 64)
    for int8 in (False, True):
        kv_cache._prepare(20, 2, 64, int8, CPU)()
        assert attention_variants.workload(2, 1, 40, int8).prepare(CPU)().shape == (2, 32, 128)


def test_without_a_gpu_the_benchmark_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert kernels.main([]) == 2
    assert "there is no GPU here to measure on" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tuner.main([])


@pytest.mark.parametrize(
    ("name", "card"),
    [("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA H100 80GB HBM3", "H100"), ("Tesla T4", None)],
)
def test_cards_are_known_by_name(name: str, card: str | None) -> None:
    found = kernels.known_card(name)
    assert (found and found.name) == card
