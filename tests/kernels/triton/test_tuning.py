"""The fastest tile is found by measuring and kept on disk; launches take it from there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from octavo.kernels.triton import tuning
from octavo.kernels.triton.attention_tiles import Case, candidates, fit, tile_of
from octavo.kernels.triton.attention_variants import workload
from octavo.kernels.triton.tune import tune

DECODE = Case("short", 128, group=4, rows=4, itemsize=2, int8=False)


@pytest.fixture(autouse=True)
def nothing_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tuning._choices.cache_clear()
    yield
    tuning._choices.cache_clear()


def test_the_fastest_tile_serves_from_then_on_also_after_a_restart() -> None:
    first, second = candidates(DECODE, "sm_80")
    assert tile_of(DECODE, "sm_80") == first
    times = iter([3.0, 2.0])
    tune([workload(1, 1, 20, int8=False)], torch.device("cpu"), lambda call: next(times), lambda line: None)
    assert tile_of(DECODE, "sm_80") == second
    tuning._choices.cache_clear()
    assert tile_of(DECODE, "sm_80") == second


def test_each_candidate_is_what_is_launched_while_it_is_measured() -> None:
    launched = []

    def measure(call: object) -> float:
        launched.append(tile_of(DECODE, "sm_80"))
        return 1.0

    tune([workload(1, 1, 20, int8=False)], torch.device("cpu"), measure, lambda line: None)
    assert launched == candidates(DECODE, "sm_80")


def test_a_trial_leaves_no_choice_behind() -> None:
    first, second = candidates(DECODE, "sm_80")
    with tuning.trial("paged_attention_kernel", DECODE.key, second):
        assert tile_of(DECODE, "sm_80") == second
    assert tile_of(DECODE, "sm_80") == first


@pytest.mark.parametrize(("group", "new", "rows"), [(1, 1, 16), (8, 1, 16), (7, 3, 32), (8, 16, 128)])
def test_a_tile_has_room_for_all_new_tokens_of_a_sequence(group: int, new: int, rows: int) -> None:
    case = Case("short", 128, group, group * new, 2, int8=False)
    assert fit(case, candidates(case, "sm_90")[0], "sm_90").constants["BLOCK_M"] == rows
