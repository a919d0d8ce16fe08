"""Tiles of the attention kernels by form, head size and architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import triton

from octavo.kernels.triton import tuning
from octavo.kernels.triton.registry import Tile

Form = Literal["tiled", "short"]

Sizes = dict[int, list[tuple[int, int, int, int]]]

# Rows and keys of a tile, warps and stages, by the head size padded to a power of two. The first of several
# is what serves; the others are tried by `tune`. None spills a register: `make kernels` sees to it.
NVIDIA: Sizes = {
    64: [(64, 64, 4, 3), (128, 64, 8, 3)],
    128: [(128, 64, 8, 2), (128, 32, 8, 3)],
    256: [(64, 64, 8, 2), (64, 32, 8, 2)],
}
SM_80: Sizes = {  # operands take registers there, and the shared memory of its smaller kin is less
    64: [(128, 64, 8, 3), (64, 32, 4, 3)],
    128: [(128, 32, 8, 3), (64, 32, 8, 3)],
    256: [(64, 32, 8, 2)],
}
AMD: Sizes = {64: [(128, 64, 4, 1)], 128: [(128, 64, 8, 1)], 256: [(64, 32, 4, 1)]}
# Where keys and values come in 8 bits: making 16 of them takes registers.
NVIDIA_INT8: Sizes = {
    64: [(128, 64, 8, 3), (64, 64, 4, 3)],
    128: [(128, 32, 8, 2), (64, 32, 4, 2)],
    256: [(64, 32, 8, 2)],
}
SM_80_INT8: Sizes = {
    64: [(128, 64, 8, 3)],
    128: [(128, 16, 8, 2), (64, 32, 8, 2)],
    256: [(64, 16, 8, 2)],
}
AMD_INT8: Sizes = {64: [(128, 64, 4, 1)], 128: [(128, 32, 4, 1)], 256: [(64, 32, 4, 1)]}
# Of sequences with few new tokens.
NVIDIA_SHORT: Sizes = {
    64: [(16, 128, 4, 2), (16, 64, 4, 3)],
    128: [(16, 64, 4, 2), (16, 32, 4, 3)],
    256: [(16, 32, 4, 2)],
}
NVIDIA_SHORT_INT8: Sizes = {
    64: [(16, 128, 4, 2), (16, 64, 4, 3)],
    128: [(16, 32, 2, 4), (16, 64, 4, 2)],
    256: [(16, 32, 4, 2)],
}
AMD_SHORT: Sizes = {64: [(16, 64, 4, 1)], 128: [(16, 64, 4, 1)], 256: [(16, 32, 4, 1)]}


@dataclass(frozen=True, slots=True)
class Case:
    """What a tile is chosen by. rows: of a tile that has all new tokens of its sequence; without meaning
    where there are several. itemsize: bytes of the model's type. int8: of keys and values."""

    form: Form
    head_dim: int
    group: int
    rows: int
    itemsize: int
    int8: bool

    @property
    def block_d(self) -> int:
        return max(64, int(triton.next_power_of_2(self.head_dim)))

    @property
    def key(self) -> str:
        """Of the choice that tuning keeps."""
        bits = "int8 KV" if self.int8 else f"{8 * self.itemsize} bits"
        return f"{self.form}, heads of {self.block_d}, {bits}"


def tile_of(case: Case, architecture: str) -> Tile:
    """The one that was the fastest on this card, if that is known, or the first."""
    known = tuning.chosen("paged_attention_kernel", case.key)
    return fit(case, known or candidates(case, architecture)[0], architecture)


def candidates(case: Case, architecture: str) -> list[Tile]:
    """Before they are fitted."""
    if case.form == "short":
        of_nvidia = NVIDIA_SHORT_INT8 if case.int8 else NVIDIA_SHORT
        sizes = AMD_SHORT if is_amd(architecture) else of_nvidia
    elif is_amd(architecture):
        sizes = AMD_INT8 if case.int8 else AMD
    elif architecture == "sm_80":
        sizes = SM_80_INT8 if case.int8 else SM_80
    else:
        sizes = NVIDIA_INT8 if case.int8 else NVIDIA
    tiles = []
    for block_m, block_n, warps, stages in sizes[case.block_d]:
        if case.itemsize == 4:
            block_m, block_n, warps, stages = max(16, block_m // 4), 32, 4, 1
        tiles.append(Tile({"BLOCK_D": case.block_d, "BLOCK_M": block_m, "BLOCK_N": block_n}, warps, stages))
    return tiles


def fit(case: Case, tile: Tile, architecture: str) -> Tile:
    """With rows enough for a group, and for all new tokens where a tile has to have them."""
    least = case.group if case.form == "tiled" else case.rows
    block_m = max(tile.constants["BLOCK_M"], int(triton.next_power_of_2(least)))
    if block_m == tile.constants["BLOCK_M"]:
        return tile
    warps, block_n = tile.num_warps, tile.constants["BLOCK_N"]
    if block_m > 32:
        warps = 4 if is_amd(architecture) else 8
        block_n = min(block_n, 32 if case.int8 or case.block_d > 128 else 64)
    return Tile({**tile.constants, "BLOCK_M": block_m, "BLOCK_N": block_n}, warps, tile.num_stages)


def is_amd(architecture: str) -> bool:
    return architecture.startswith("gfx")


def most_rows(head_dim: int) -> int:
    """Rows up to which a sequence's new tokens are one tile, so that its context may be split."""
    return 128 if head_dim <= 128 else 64
