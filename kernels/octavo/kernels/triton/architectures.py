"""The GPUs that kernels are compiled for, and the cards whose limits they are held against."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """backend, arch, warp_size: as `triton.backends.compiler.GPUTarget` takes them.

    How many programs one multiprocessor (AMD: compute unit) runs at once is limited by its warps, its 32-bit
    registers, handed out to a warp in pieces of `register_piece` a thread, its shared memory in bytes, of
    which a program needs `shared_reserved` more than it asks for and may ask for at most `shared_program`,
    and by `programs`. On AMD registers and warps belong to one of `partitions` of the unit.

    Sources: CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability"; AMD CDNA3
    ISA, sections 3.6 and 3.12.
    """

    name: str
    backend: str
    arch: int | str
    warp_size: int
    warps: int
    registers: int
    register_piece: int
    shared: int
    shared_program: int
    shared_reserved: int
    programs: int
    partitions: int = 1

    def occupancy(self, registers: int, shared: int, num_warps: int) -> float:
        """The share of the warps that can be resident, by registers of a thread and shared memory of a
        program; 0 where not even one program fits."""
        pieces = -(-max(registers, 1) // self.register_piece) * self.register_piece
        of_partition = self.registers // self.partitions // (pieces * self.warp_size)
        resident = min(self.warps, of_partition * self.partitions)
        programs = min(self.programs, resident // num_warps, self.warps // num_warps)
        if shared:
            programs = min(programs, self.shared // (shared + self.shared_reserved))
        if shared > self.shared_program:
            programs = 0
        return programs * num_warps / self.warps


def _nvidia(arch: int, shared_kib: int) -> Architecture:
    return Architecture(
        name=f"sm_{arch}",
        backend="cuda",
        arch=arch,
        warp_size=32,
        warps=64,
        registers=65536,
        register_piece=8,
        shared=shared_kib * 1024,
        shared_program=(shared_kib - 1) * 1024,
        shared_reserved=1024,
        programs=32,
        partitions=4,
    )


ARCHITECTURES: Mapping[str, Architecture] = {
    "sm_80": _nvidia(80, 164),
    "sm_90": _nvidia(90, 228),
    "sm_100": _nvidia(100, 228),
    "gfx942": Architecture(
        name="gfx942",
        backend="hip",
        arch="gfx942",
        warp_size=64,
        warps=32,
        registers=4 * 512 * 64,
        register_piece=8,
        shared=64 * 1024,
        shared_program=64 * 1024,
        shared_reserved=0,
        programs=32,
        partitions=4,
    ),
}


@dataclass(frozen=True, slots=True)
class Card:
    """memory: bytes per second. rates: operations per second without sparsity, by unit."""

    name: str
    architecture: str
    memory: float
    rates: Mapping[str, float]


CARDS = (
    # NVIDIA A100 Tensor Core GPU data sheet (2021), SXM, 80 GB.
    Card(
        "A100",
        "sm_80",
        2.039e12,
        {"vector": 19.5e12, "fp32": 156e12, "bf16": 312e12, "fp16": 312e12, "int8": 624e12, "fp8": 312e12},
    ),
    # NVIDIA H100 Tensor Core GPU data sheet (2023), SXM; its figures with sparsity, halved.
    Card(
        "H100",
        "sm_90",
        3.35e12,
        {"vector": 67e12, "fp32": 495e12, "bf16": 989e12, "fp16": 989e12, "int8": 1979e12, "fp8": 1979e12},
    ),
    # NVIDIA H200 Tensor Core GPU data sheet (2024), SXM; likewise.
    Card(
        "H200",
        "sm_90",
        4.8e12,
        {"vector": 67e12, "fp32": 495e12, "bf16": 989e12, "fp16": 989e12, "int8": 1979e12, "fp8": 1979e12},
    ),
    # AMD Instinct MI300X data sheet (2023).
    Card(
        "MI300X",
        "gfx942",
        5.3e12,
        {
            "vector": 163.4e12,
            "fp32": 163.4e12,
            "bf16": 1307e12,
            "fp16": 1307e12,
            "int8": 2615e12,
            "fp8": 2615e12,
        },
    ),
)
"""An A100 computes fp8 as fp16. "fp32" is of matrix instructions: TF32 on NVIDIA."""


@cache
def current_architecture() -> str:
    """The one in ARCHITECTURES whose tiles suit the GPU here, or Triton's interpreter. sm_86, sm_89 and
    sm_120 have less shared memory than any of them; sm_80's tiles make do with it."""
    if not torch.cuda.is_available():
        return "sm_80"
    if torch.version.hip:
        return "gfx942"
    major, _ = torch.cuda.get_device_capability()
    return {9: "sm_90", 10: "sm_100", 11: "sm_100"}.get(major, "sm_80")


@cache
def multiprocessors() -> int:
    """Of the GPU here; 0 where there is none."""
    if not torch.cuda.is_available():
        return 0
    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count)
