"""The build of the GPU kernels with no GPU: what it reads out of the machine code, and when it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from octavo.kernels.triton import compile as build
from octavo.kernels.triton.architectures import ARCHITECTURES
from octavo.kernels.triton.registry import Tile, Variant
from octavo.kernels.triton.resources import Resources


def make_kernels(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "octavo.kernels.triton.compile", "--processes", "1", *arguments]
    return subprocess.run(
        command,
        env={**environment, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_kernel_compiles_for_all_architectures_and_the_second_time_from_the_cache(tmp_path: Path) -> None:
    first = make_kernels("--only", "gated_activation", "--dtype", "bf16", cache=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert all(architecture in first.stdout for architecture in ARCHITECTURES)
    kept = list(tmp_path.rglob("*.json"))
    second = make_kernels("--only", "gated_activation", "--dtype", "bf16", cache=tmp_path)
    assert second.stdout.split("compiled in")[0] == first.stdout.split("compiled in")[0]
    assert list(tmp_path.rglob("*.json")) == kept


SPILLING = """
from octavo.kernels.triton import norm
from octavo.kernels.triton.architectures import ARCHITECTURES
from octavo.kernels.triton.registry import Tile
from octavo.kernels.triton.resources import compiled
from dataclasses import replace

for name, length in (("sm_80", 8192), ("gfx942", 32768)):
    variant = replace(next(norm.variants()), tile=Tile({"ROWS": 1, "BLOCK": length}, num_warps=1))
    resources = compiled(variant, ARCHITECTURES[name])
    assert resources.fault(hot=True) == f"spills {resources.spills} bytes", resources
"""


def test_registers_that_spill_are_seen() -> None:
    """Of rows so long that a warp has not registers enough for one."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", SPILLING], env=environment, check=True)


def test_every_variant_gives_each_argument_of_its_kernel() -> None:
    for each in build.all_variants():
        assert {*each.arguments, *each.all_constants} == set(each.kernel.arg_names), each
        assert not each.arguments.keys() & each.all_constants.keys(), each


def test_the_table_has_a_line_for_a_variant_and_a_cell_for_an_architecture() -> None:
    results = {
        (0, "sm_80"): Resources(40, 0, 2048, 0.75),
        (0, "sm_90"): Resources(error="CompilationError: no"),
    }
    lines = build.table([variant(hot=True)], ["sm_80", "sm_90", "gfx942"], results)
    name, *cells = lines[-1].split(" | ")
    assert name.split() == ["kernel", "bf16", "4w", "2s"]
    assert [cell.split() for cell in cells] == [["40", "0", "2.0K", "75%"], ["error"], ["–"]]


def variant(*, hot: bool) -> Variant:
    def kernel() -> None: ...

    return Variant(kernel=kernel, dtype="bf16", tile=Tile({}), arguments={}, hot=hot)


@pytest.mark.parametrize(
    ("hot", "resources", "fault"),
    [
        (True, Resources(64, 0, 0, 1.0), None),
        (True, Resources(255, 16, 0, 0.125), "spills 16 bytes"),
        (False, Resources(255, 16, 0, 0.125), None),
        (False, Resources(64, 0, 300_000, 0.0), "not one program fits"),
        (False, Resources(error="CompilationError: no"), "CompilationError: no"),
    ],
)
def test_what_fails_the_build(hot: bool, resources: Resources, fault: str | None) -> None:
    found = build.faults([variant(hot=hot)], {(0, "sm_80"): resources})
    assert bool(found) == bool(fault)
    assert not fault or fault in found[0]


@pytest.mark.parametrize(
    ("name", "registers", "shared", "num_warps", "expected"),
    [
        ("sm_80", 32, 0, 4, 1.0),
        ("sm_80", 255, 0, 4, 0.125),
        ("sm_80", 128, 0, 4, 0.25),
        ("sm_90", 32, 100 * 1024, 8, 0.25),
        ("sm_90", 32, 228 * 1024, 8, 0.0),
        ("gfx942", 64, 0, 4, 1.0),
        ("gfx942", 256, 0, 4, 0.25),
        ("gfx942", 64, 33 * 1024, 4, 0.125),
    ],
)
def test_occupancy_is_limited_by_registers_and_shared_memory(
    name: str, registers: int, shared: int, num_warps: int, expected: float
) -> None:
    assert ARCHITECTURES[name].occupancy(registers, shared, num_warps) == expected


def test_every_launch_is_of_a_variant_that_is_compiled() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-m", "tests.kernels.triton.launches"],
        env=environment,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "of 20 kernels" in result.stdout
