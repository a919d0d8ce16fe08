"""What a module of this room tells of its kernels: their variants to compile, and what each op costs.

A module has `variants()`, every combination of types and tile that a call may launch, and `workloads()`, its
ops at sizes of real models. The compiler (`compile.py`), the rooflines (`roofline.py`) and the benchmark read
nothing else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo.kernels.triton.architectures import ARCHITECTURES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Protocol

    import torch

    Call = Callable[[], object]

    class Module(Protocol):
        def variants(self) -> Iterable[Variant]: ...
        def workloads(self) -> Iterable[Workload]: ...


FLOATS = ("bf16", "fp16", "fp32")
"""Triton's names of the types that a model may have."""


@dataclass(frozen=True, slots=True)
class Tile:
    """How a kernel divides its work: constants of the kernel by name, warps of a program, and stages of the
    pipeline that loads ahead in its loop."""

    constants: Mapping[str, int]
    num_warps: int = 4
    num_stages: int = 2

    @property
    def options(self) -> dict[str, int | bool]:
        """Of the compiler. A product and a sum may be one instruction that rounds once."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}

    def launch(self) -> dict[str, int | bool]:
        """As keywords of a launch."""
        return {**self.constants, **self.options}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One ahead-of-time compilable form of a kernel.

    kernel: a function under `triton.jit`. dtype: what the table calls it by.
    arguments: the type of each argument given at run time, by name: "*bf16" points to bfloat16, "i32" is an
        integer, and ":16" behind either says that it is divisible by 16, as `triton.jit` finds out of the
        actual ones. constants: of every other argument its value.
    hot: part of a decoder's steps, so that a spilled register fails the build.
    architectures: names of those on which it may be launched.
    """

    kernel: Any
    dtype: str
    tile: Tile
    arguments: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    hot: bool = True
    architectures: tuple[str, ...] = tuple(ARCHITECTURES)

    @property
    def name(self) -> str:
        return str(self.kernel.__name__)

    @property
    def all_constants(self) -> dict[str, Any]:
        return {**self.constants, **self.tile.constants}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One op at one size.

    size: in words. bytes: what must cross the card's memory at least, each input read and each output written
    once. flops: operations, two for a multiplication with addition. unit: what does them, a key of
    `Card.rates`: "vector", or matrix instructions by type.
    prepare: makes the tensors on a device; returns the call that is measured.
    kernel, key, candidates: where tiles can be chosen from, of which choice (see `tuning`), and the tiles for
        an architecture.
    """

    op: str
    size: str
    dtype: str
    bytes: int
    flops: int
    unit: str
    prepare: Callable[[torch.device], Call]
    kernel: str = ""
    key: str = ""
    candidates: Callable[[str], Sequence[Tile]] | None = None


def grouped_by_tile(tiles_of: Callable[[str], Sequence[Tile]]) -> Iterator[tuple[Tile, tuple[str, ...]]]:
    """Every tile that `tiles_of` has for some architecture, and the names of these architectures."""
    found: list[tuple[Tile, list[str]]] = []
    for architecture in ARCHITECTURES:
        for tile in tiles_of(architecture):
            users = next((users for known, users in found if known == tile), None)
            if users is None:
                found.append((tile, [architecture]))
            elif architecture not in users:
                users.append(architecture)
    for tile, users in found:
        yield tile, tuple(users)


def cache_folder() -> Path:
    """Where compilations and choices of tiles are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "octavo" / "triton"
