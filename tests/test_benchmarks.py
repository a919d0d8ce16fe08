"""Benchmarks still run: all can be imported, and one that reaches into the engine finds what it looks for."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

import benchmarks
import pytest
from benchmarks import step_costs

from octavo.engine import LLM

if TYPE_CHECKING:
    from pathlib import Path

MODULES = [module.name for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.")]


@pytest.mark.parametrize("name", MODULES)
def test_it_can_be_imported(name: str) -> None:
    importlib.import_module(name)


def test_every_part_of_a_step_has_its_clock(smollm2_path: Path) -> None:
    llm = LLM(str(smollm2_path), device="cpu", max_num_seqs=4, kv_cache_memory="64Mi")
    step_costs.without_model(llm._engine)

    clocks = step_costs.measure(llm, num_seqs=4, num_tokens=8, parts=step_costs.PARTS)

    assert clocks.steps
    for part in (*step_costs.PARTS, step_costs.RUNNER):
        assert step_costs.median(clocks, part) > 0, part
