"""Which KV block belongs to whom: reference counts, prefix hashes, copy-on-write.

A block is always in exactly one place:

    free        nothing in it is worth keeping; on the free list
    cached      nobody refers to it, but a prompt may find it by its hash; least recently used first out
    referenced  one or more block tables hold it; a full one may have a hash too

Every operation costs O(blocks touched).
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

from octavo.engine.config import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable

Copy = tuple[int, int]
"""(source, target) blocks."""


def extend_hashes(hashes: list[bytes], token_ids: array[int], block_size: int = BLOCK_SIZE) -> None:
    """Appends the hashes of the full blocks of `token_ids` that `hashes` does not have yet.

    Each hash covers its block and, through its parent's, everything before. It is cryptographic (BLAKE2b, 128
    bits), so equal hashes mean equal prefixes and no tokens need comparing; and it is the same in every
    process, so that a gateway can know what a pod has.
    """
    parent = hashes[-1] if hashes else b""
    for start in range(len(hashes) * block_size, len(token_ids) - block_size + 1, block_size):
        parent = blake2b(parent + token_ids[start : start + block_size].tobytes(), digest_size=16).digest()
        hashes.append(parent)


@dataclass(slots=True, eq=False)
class BlockTable:
    """The blocks of one sequence, in order. Only the block manager changes it.

    num_known: how many blocks, from the start, are full and can be found by their hashes.
    """

    blocks: array[int] = field(default_factory=lambda: array("i"))
    num_known: int = 0


class BlockManager:
    """Hands out, shares, caches and takes back the blocks of one KV pool."""

    def __init__(self, num_blocks: int, *, block_size: int = BLOCK_SIZE) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._references = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_available(self) -> int:
        """Blocks that can be handed out: free ones, and cached ones, which are evicted for it."""
        return len(self._free) + len(self._cached)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_held(self) -> int:
        return self.num_blocks - self.num_available

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def find_prefix(self, hashes: list[bytes], num_tokens: int) -> BlockTable:
        """A table that refers to the cached blocks with which a sequence of `num_tokens` tokens begins.

        The last token is always left out: it must be computed for its logits.
        """
        table = BlockTable()
        for digest in hashes[: (num_tokens - 1) // self.block_size]:
            block = self._block_of.get(digest)
            if block is None:
                break
            if self._references[block] == 0:
                del self._cached[block]
            self._references[block] += 1
            table.blocks.append(block)
        table.num_known = len(table.blocks)
        return table

    def num_missing(self, table: BlockTable, start: int, end: int) -> int:
        """How many blocks `reserve(table, start, end)` would take."""
        return len(self._shared(table, start, end)) + max(self.blocks_for(end) - len(table.blocks), 0)

    def reserve(self, table: BlockTable, start: int, end: int) -> list[Copy] | None:
        """Makes positions `start` to `end` of the table writable: the blocks exist and are the table's alone.

        Everything before `start` must be in the table already. Returns the copies to do before anything is
        written, at most one; or None, and changes nothing, if there are too few blocks.
        """
        first = start // self.block_size
        in_last = end <= len(table.blocks) * self.block_size and first + 1 == len(table.blocks)
        if in_last and table.num_known <= first and self._references[table.blocks[first]] == 1:
            return []  # as in most steps of a decode: the last block has room and is the table's own
        shared = self._shared(table, start, end)
        new = self.blocks_for(end) - len(table.blocks)
        if len(shared) + max(new, 0) > self.num_available:
            return None
        copies: list[Copy] = []
        for index in shared:
            source, target = table.blocks[index], self._take()
            self._references[source] -= 1
            table.blocks[index] = target
            if index == first and start % self.block_size:
                copies.append((source, target))
        if table.num_known > first:
            # Blocks that were known are written again: nobody may find them by what they held.
            for block in table.blocks[first : table.num_known]:
                self._forget(block)
            table.num_known = first
        for _ in range(new):
            table.blocks.append(self._take())
        return copies

    def commit(self, table: BlockTable, hashes: list[bytes], num_computed: int) -> None:
        """Makes the table's full blocks known by their hashes, now that `num_computed` tokens are in them."""
        if num_computed < (table.num_known + 1) * self.block_size:
            return
        for index in range(table.num_known, min(num_computed // self.block_size, len(hashes))):
            block, digest = table.blocks[index], hashes[index]
            if digest not in self._block_of:
                self._block_of[digest] = block
                self._hash_of[block] = digest
            table.num_known = index + 1

    def fork(self, table: BlockTable) -> BlockTable:
        """A second table over the same blocks; whoever writes to a shared one gets a copy of it."""
        for block in table.blocks:
            self._references[block] += 1
        return BlockTable(table.blocks[:], table.num_known)

    def truncate(self, table: BlockTable, num_tokens: int) -> None:
        """Gives back the blocks that hold nothing of the first `num_tokens` tokens."""
        keep = self.blocks_for(num_tokens)
        # Last block first: of a prefix that stays cached, the end is the first to be evicted.
        for block in reversed(table.blocks[keep:]):
            self._references[block] -= 1
            if self._references[block] == 0:
                if block in self._hash_of:
                    self._cached[block] = None
                else:
                    self._free.append(block)
        del table.blocks[keep:]
        table.num_known = min(table.num_known, keep)

    def release(self, table: BlockTable) -> None:
        """Gives back all blocks of the table; those with a hash stay cached until they are needed."""
        self.truncate(table, 0)

    def check(self, tables: Iterable[BlockTable]) -> None:
        """Asserts the invariants, given every table in use. For tests and idle moments: O(all blocks)."""
        counts = Counter(block for table in tables for block in table.blocks)
        assert counts == {b: n for b, n in enumerate(self._references) if n}, "counts differ from the tables"
        assert len(self._free) + len(self._cached) + len(counts) == self.num_blocks, "a block was lost"
        places = {*self._free, *self._cached, *counts}
        assert len(places) == self.num_blocks, "a block is in two places"
        assert {b: h for h, b in self._block_of.items()} == self._hash_of, "the hash maps disagree"
        assert self._cached.keys() <= self._hash_of.keys(), "a cached block has no hash"
        assert not self._hash_of.keys() & set(self._free), "a free block has a hash"

    def _shared(self, table: BlockTable, start: int, end: int) -> list[int]:
        """Indices of the blocks that hold positions `start` to `end` and are not the table's alone."""
        last = min(self.blocks_for(end), len(table.blocks))
        references, blocks = self._references, table.blocks
        return [i for i in range(start // self.block_size, last) if references[blocks[i]] > 1]

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._cached.popitem(last=False)
            self._forget(block)
        self._references[block] = 1
        return block

    def _forget(self, block: int) -> None:
        if (digest := self._hash_of.pop(block, None)) is not None:
            del self._block_of[digest]
