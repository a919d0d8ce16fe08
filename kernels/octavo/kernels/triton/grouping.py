"""Rows put together by whom they belong to, an expert or an adapter, so that one launch serves all owners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import triton
import triton.language as tl

from octavo.kernels.triton.registry import Tile, Variant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Groups:
    """order: int32 [num_blocks · rows]: blocks of `rows` rows that have one owner, in their order, padded
    with num_rows. owners: int32 [num_blocks], of each block; -1 if it is not used, and then what order has
    for it means nothing."""

    order: Tensor
    owners: Tensor
    rows: int


@triton.jit(do_not_specialize=["num_rows", "num_blocks", "num_owners"])
def group_rows_kernel(
    row_owners_ptr,
    order_ptr,
    owners_ptr,
    num_rows,
    num_blocks,
    num_owners,
    ROWS: tl.constexpr,
    OWNERS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """A program for each owner: it counts everybody's rows, to know where its own blocks begin, then puts its
    rows there. No order of execution changes the result."""
    owner = tl.program_id(0)
    lanes = tl.arange(0, CHUNK)
    everybody = tl.arange(0, OWNERS)
    counts = tl.zeros((OWNERS,), tl.int32)
    for start in range(0, num_rows, CHUNK):
        theirs = tl.load(row_owners_ptr + start + lanes, mask=start + lanes < num_rows, other=-1)
        counts += tl.histogram(tl.maximum(theirs, 0), OWNERS, mask=theirs >= 0)
    blocks = (counts + ROWS - 1) // ROWS
    first = tl.sum(tl.where(everybody < owner, blocks, 0), 0)
    end = first + tl.sum(tl.where(everybody == owner, blocks, 0), 0)
    for start in range(first, end, CHUNK):
        tl.store(owners_ptr + start + lanes, owner, mask=start + lanes < end)
    place = first * ROWS
    for start in range(0, num_rows, CHUNK):
        theirs = tl.load(row_owners_ptr + start + lanes, mask=start + lanes < num_rows, other=-1)
        mine = (theirs == owner).to(tl.int32)
        tl.store(order_ptr + place + tl.cumsum(mine, 0) - mine, start + lanes, mask=mine > 0)
        place += tl.sum(mine, 0)
    padding = place + tl.arange(0, ROWS)
    tl.store(order_ptr + padding, num_rows, mask=padding < end * ROWS)
    if owner == num_owners - 1:
        for start in range(end, num_blocks, CHUNK):
            tl.store(owners_ptr + start + lanes, -1, mask=start + lanes < num_blocks)


def group_rows(row_owners: Tensor, num_owners: int, rows: int) -> Groups:
    """row_owners: int32 [num_rows], -1 for a row of nobody's. rows: of a block, a power of two."""
    num_rows = row_owners.numel()
    num_blocks = (num_rows + min(num_owners, num_rows) * (rows - 1)) // rows
    order, owners = row_owners.new_empty(num_blocks * rows), row_owners.new_empty(num_blocks)
    if num_rows:
        sizes = tile(rows, num_owners)
        group_rows_kernel[(num_owners,)](
            row_owners, order, owners, num_rows, num_blocks, num_owners, **sizes.launch()
        )
    return Groups(order, owners, rows)


def tile(rows: int, num_owners: int) -> Tile:
    return Tile(
        {"ROWS": rows, "OWNERS": max(64, triton.next_power_of_2(num_owners)), "CHUNK": CHUNK}, num_warps=4
    )


def variants() -> Iterator[Variant]:
    for rows, num_owners in ((16, 64), (16, 256), (64, 64), (64, 256), (128, 64), (128, 256)):
        yield Variant(
            kernel=group_rows_kernel,
            dtype="int32",
            tile=tile(rows, num_owners),
            arguments={
                "row_owners_ptr": "*i32:16",
                "order_ptr": "*i32:16",
                "owners_ptr": "*i32:16",
                "num_rows": "i32",
                "num_blocks": "i32",
                "num_owners": "i32",
            },
        )


def workloads() -> tuple[()]:
    """Their time is that of a launch: they are part of `experts` and `adapters`."""
    return ()
