"""The block manager: what is shared, copied, cached and given back."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from octavo.engine.block_manager import BlockManager, BlockTable, extend_hashes

SIZE = 4


@pytest.fixture
def manager() -> BlockManager:
    return BlockManager(8, block_size=SIZE)


def tokens(*ids: int) -> array[int]:
    return array("i", ids)


def hashes_of(token_ids: array[int]) -> list[bytes]:
    hashes: list[bytes] = []
    extend_hashes(hashes, token_ids, SIZE)
    return hashes


def filled(manager: BlockManager, token_ids: array[int]) -> BlockTable:
    """A table with all of these tokens computed."""
    table = BlockTable()
    assert manager.reserve(table, 0, len(token_ids)) == []
    manager.commit(table, hashes_of(token_ids), len(token_ids))
    return table


def test_blocks_come_as_tokens_come(manager: BlockManager) -> None:
    table = BlockTable()
    assert manager.reserve(table, 0, 1) == []
    assert len(table.blocks) == 1
    assert manager.reserve(table, 1, SIZE) == []
    assert len(table.blocks) == 1
    assert manager.reserve(table, SIZE, SIZE + 1) == []
    assert len(table.blocks) == 2


def test_too_few_blocks_change_nothing(manager: BlockManager) -> None:
    table = filled(manager, tokens(*range(20)))
    assert manager.reserve(table, 20, 33) is None
    assert len(table.blocks) == 5
    manager.check([table])


def test_equal_prefixes_are_found_up_to_the_last_token(manager: BlockManager) -> None:
    prompt = tokens(*range(8))
    table = filled(manager, prompt)
    assert manager.find_prefix(hashes_of(prompt), len(prompt)).blocks == table.blocks[:1]
    longer = prompt + tokens(99)
    assert manager.find_prefix(hashes_of(longer), len(longer)).blocks == table.blocks


def test_a_prefix_must_be_equal_from_its_start(manager: BlockManager) -> None:
    filled(manager, tokens(1, 2, 3, 4, 5, 6, 7, 8))
    other = tokens(9, 9, 9, 9, 5, 6, 7, 8, 0)
    assert not manager.find_prefix(hashes_of(other), len(other)).blocks


def test_only_computed_blocks_are_found(manager: BlockManager) -> None:
    prompt = tokens(*range(9))
    table = BlockTable()
    manager.reserve(table, 0, 9)
    manager.commit(table, hashes_of(prompt), 5)
    assert manager.find_prefix(hashes_of(prompt), 9).blocks == table.blocks[:1]


def test_released_blocks_stay_cached_until_they_are_needed(manager: BlockManager) -> None:
    prompt = tokens(*range(9))
    manager.release(filled(manager, prompt))
    assert (manager.num_held, manager.num_cached, manager.num_available) == (0, 2, 8)
    everything = BlockTable()
    assert manager.reserve(everything, 0, 8 * SIZE) == []
    assert not manager.find_prefix(hashes_of(prompt), 9).blocks


def test_the_least_recently_used_prefix_goes_first_and_its_end_before_its_start(
    manager: BlockManager,
) -> None:
    old, new = tokens(*range(9)), tokens(*range(100, 109))
    manager.release(filled(manager, old))
    manager.release(filled(manager, new))
    taken = BlockTable()
    manager.reserve(taken, 0, 5 * SIZE)
    assert len(manager.find_prefix(hashes_of(old), 9).blocks) == 1
    assert len(manager.find_prefix(hashes_of(new), 9).blocks) == 2


def test_a_fork_shares_every_block_and_copies_the_one_it_writes_to(manager: BlockManager) -> None:
    parent = filled(manager, tokens(*range(6)))
    child = manager.fork(parent)
    assert manager.num_held == 2
    [(source, target)] = manager.reserve(child, 6, 7) or []
    assert source == parent.blocks[1]
    assert target == child.blocks[1]
    assert child.blocks[0] == parent.blocks[0]
    assert manager.reserve(parent, 6, 7) == [], "the parent has the original to itself now"
    manager.check([parent, child])


def test_a_fork_at_a_block_boundary_copies_nothing(manager: BlockManager) -> None:
    parent = filled(manager, tokens(*range(8)))
    child = manager.fork(parent)
    assert manager.reserve(child, 8, 9) == []
    assert manager.num_held == 3


def test_a_known_block_that_is_written_again_is_not_found_any_more(manager: BlockManager) -> None:
    prompt = tokens(*range(9))
    table = filled(manager, prompt)
    manager.truncate(table, 6)
    assert manager.reserve(table, 6, 7) == []
    assert len(manager.find_prefix(hashes_of(prompt), 9).blocks) == 1


class Pool(RuleBasedStateMachine):
    """Random sequences over a small pool. Each table remembers what its tokens should be, and every block
    what was written to it: a table must always read back its own tokens, whoever shares or copies what."""

    tables = Bundle("tables")

    @initialize(num_blocks=st.integers(2, 12))
    def start(self, num_blocks: int) -> None:
        self.manager = BlockManager(num_blocks, block_size=SIZE)
        self.memory = [[-1] * SIZE for _ in range(num_blocks)]
        self.live: dict[BlockTable, array[int]] = {}

    @rule(target=tables, prompt=st.lists(st.integers(0, 1), min_size=1, max_size=24))
    def admit(self, prompt: list[int]) -> object:
        token_ids = array("i", prompt)
        table = self.manager.find_prefix(hashes_of(token_ids), len(token_ids))
        start = len(table.blocks) * SIZE
        assert self.read(table, start) == token_ids[:start].tolist(), "the cache gave a wrong prefix"
        if not self.write(table, start, token_ids):
            self.manager.release(table)
            return multiple()
        return table

    @rule(table=tables, new=st.lists(st.integers(0, 1), min_size=1, max_size=6))
    def append(self, table: BlockTable, new: list[int]) -> None:
        before = self.live[table]
        self.write(table, len(before), before + array("i", new))

    @rule(target=tables, table=tables)
    def fork(self, table: BlockTable) -> BlockTable:
        child = self.manager.fork(table)
        self.live[child] = self.live[table][:]
        return child

    @rule(table=tables, data=st.data())
    def cut(self, table: BlockTable, data: st.DataObject) -> None:
        num_tokens = data.draw(st.integers(0, len(self.live[table])))
        self.manager.truncate(table, num_tokens)
        del self.live[table][num_tokens:]

    @rule(table=consumes(tables))
    def release(self, table: BlockTable) -> None:
        self.manager.release(table)
        del self.live[table]

    @invariant()
    def nothing_is_lost(self) -> None:
        self.manager.check(self.live)

    @invariant()
    def every_table_reads_its_own_tokens(self) -> None:
        for table, token_ids in self.live.items():
            assert self.read(table, len(token_ids)) == token_ids.tolist()

    def teardown(self) -> None:
        for table in getattr(self, "live", {}):
            self.manager.release(table)
        if hasattr(self, "manager"):
            assert self.manager.num_available == self.manager.num_blocks

    def write(self, table: BlockTable, start: int, token_ids: array[int]) -> bool:
        copies = self.manager.reserve(table, start, len(token_ids))
        if copies is None:
            return False
        for source, target in copies:
            self.memory[target] = self.memory[source][:]
        for position in range(start, len(token_ids)):
            self.memory[table.blocks[position // SIZE]][position % SIZE] = token_ids[position]
        self.live[table] = token_ids
        self.manager.commit(table, hashes_of(token_ids), len(token_ids))
        return True

    def read(self, table: BlockTable, num_tokens: int) -> list[int]:
        return [self.memory[table.blocks[i // SIZE]][i % SIZE] for i in range(num_tokens)]


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=40)
