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
    first = make_kernels("--only", "gated_activation", cache=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert all(architecture in first.stdout for architecture in ARCHITECTURES)
    kept = list(tmp_path.rglob("*.json"))
    second = make_kernels("--only", "gated_activation", cache=tmp_path)
    assert second.stdout.split("compiled in")[0] == first.stdout.split("compiled in")[0]
    assert list(tmp_path.rglob("*.json")) == kept


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
