"""The scheduler: who computes what in a step, who waits, and who loses blocks."""

from __future__ import annotations

from array import array
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from octavo.engine.block_manager import BlockManager, extend_hashes
from octavo.engine.params import SamplingParams
from octavo.engine.request import Request
from octavo.engine.sampling_state import SamplingState
from octavo.engine.scheduler import Scheduler, StepPlan
from octavo.engine.sequence import Sequence, Status
from octavo.engine.timeline import Timeline

PARAMS = SamplingParams()


class World:
    """A scheduler, and a runner that computes what is planned and appends token 7."""

    def __init__(self, num_blocks: int = 16, max_num_seqs: int = 4, budget: int = 32) -> None:
        self.blocks = BlockManager(num_blocks, block_size=4)
        self.scheduler = Scheduler(self.blocks, max_num_seqs=max_num_seqs, max_num_batched_tokens=budget)
        self.num_sequences = 0

    def add(self, prompt: int | list[int], max_tokens: int = 4, **fields: Any) -> Sequence:
        """Queues a sequence; a number makes a prompt of that length that shares nothing with others."""
        ids = [1000 * self.num_sequences + i for i in range(prompt)] if isinstance(prompt, int) else prompt
        sequence = Sequence(
            number=self.num_sequences,
            request=Request(PARAMS),
            token_ids=array("i", ids),
            num_prompt_tokens=len(ids),
            params=PARAMS,
            sampling=SamplingState(PARAMS, 0, len(ids)),
            max_tokens=max_tokens,
            stop_tokens=frozenset(),
            timeline=Timeline(0),
            **fields,
        )
        extend_hashes(sequence.hashes, sequence.token_ids, 4)
        self.num_sequences += 1
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> StepPlan:
        plan = self.scheduler.schedule()
        for sequence, count in plan.chunks:
            sequence.num_computed_tokens += count
            self.blocks.commit(sequence.table, sequence.hashes, sequence.num_computed_tokens)
            if sequence.num_uncomputed_tokens == 0:
                sequence.token_ids.append(7)
                extend_hashes(sequence.hashes, sequence.token_ids, 4)
                if sequence.num_output_tokens == sequence.max_tokens:
                    self.scheduler.finish(sequence)
        self.blocks.check(sequence.table for sequence in self.scheduler.sequences())
        return plan

    def run(self, limit: int = 10_000) -> None:
        for _ in range(limit):
            if not self.scheduler.has_work:
                return
            assert self.step().chunks, "there is work, but no step to do it"
        raise AssertionError("the sequences did not finish")


def counts(plan: StepPlan) -> dict[int, int]:
    return {sequence.number: count for sequence, count in plan.chunks}


def test_decodes_and_a_prefill_chunk_share_a_step() -> None:
    world = World(budget=10)
    world.add(3)
    world.step()
    world.add(20)
    assert counts(world.step()) == {0: 1, 1: 9}
    assert counts(world.step()) == {0: 1, 1: 9}
    assert counts(world.step()) == {0: 1, 1: 2}


def test_a_long_prefill_leaves_a_younger_decode_its_token() -> None:
    world = World(num_blocks=32, budget=8)
    old = world.add(40)
    world.scheduler.pause(old)
    world.add(2, max_tokens=9)
    world.step()
    world.scheduler.resume(old)
    assert counts(world.step()) == {0: 7, 1: 1}
    assert counts(world.step()) == {0: 7, 1: 1}


def test_no_more_sequences_than_seats() -> None:
    world = World(max_num_seqs=2)
    for _ in range(3):
        world.add(2)
    assert counts(world.step()).keys() == {0, 1}


def test_first_come_first_served_within_a_priority() -> None:
    world = World(max_num_seqs=1)
    world.add(2, priority=1)
    world.add(2, priority=0)
    world.add(2, priority=0)
    order = []
    while world.scheduler.has_work:
        [(sequence, _)] = world.step().chunks
        if sequence.number not in order:
            order.append(sequence.number)
    assert order == [1, 2, 0]


def test_the_head_of_the_queue_is_not_overtaken() -> None:
    world = World(num_blocks=8)
    world.add(16)
    world.step()
    world.add(30)  # does not fit beside the first
    small = world.add(1)
    world.step()
    assert small.status is Status.WAITING


def test_the_youngest_loses_its_blocks_when_they_run_out() -> None:
    world = World(num_blocks=6)
    old, young = world.add(8, max_tokens=12), world.add(8, max_tokens=12)
    while world.scheduler.num_preemptions == 0:
        world.step()
    assert (old.status, young.status) == (Status.RUNNING, Status.WAITING)
    assert young.num_computed_tokens == 0
    world.run()
    assert young.num_output_tokens == 12


def test_a_held_sequence_loses_its_blocks_before_a_live_one() -> None:
    world = World(num_blocks=6)
    held = world.add(8, max_tokens=1, hold=True)
    world.run()
    assert len(held.table.blocks) == 2
    world.add(12, max_tokens=8)
    world.run()
    assert not held.table.blocks
    assert world.scheduler.num_preemptions == 0


def test_a_paused_sequence_keeps_its_blocks_while_nobody_needs_them() -> None:
    world = World(num_blocks=8)
    slow = world.add(8)
    world.step()
    world.scheduler.pause(slow)
    assert not world.scheduler.has_work
    world.add(4)
    world.run()
    assert len(slow.table.blocks) == 2
    world.add(25)
    world.run()
    assert not slow.table.blocks
    world.scheduler.resume(slow)
    world.run()
    assert slow.num_output_tokens == 4


def test_a_paused_sequence_gives_up_its_seat() -> None:
    world = World(max_num_seqs=1)
    slow, other = world.add(2), world.add(2)
    world.step()
    world.scheduler.pause(slow)
    world.run()
    assert other.status is Status.FINISHED


def test_a_hold_is_not_taken_where_that_would_not_do() -> None:
    world = World(num_blocks=12)
    held = world.add(8, max_tokens=1, hold=True)
    world.run()
    world.add(24, max_tokens=2)
    world.step()
    large = world.add(40)
    world.step()
    assert large.status is Status.WAITING
    assert len(held.table.blocks) == 2
    world.run()
    assert not held.table.blocks


def test_equal_prompts_are_computed_once() -> None:
    world = World()
    first = world.add([1, 2, 3, 4, 5, 6, 7, 8, 9])
    world.step()
    second = world.add([1, 2, 3, 4, 5, 6, 7, 8, 10])
    assert counts(world.step()) == {0: 1, 1: 1}
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 8)


def test_a_prompt_waits_a_step_for_blocks_that_are_being_computed() -> None:
    world, prefix = World(num_blocks=32), list(range(16))
    for last in (100, 200, 300):
        world.add([*prefix, last])
    assert counts(world.step()) == {0: 17}
    assert counts(world.step()) == {0: 1, 1: 1, 2: 1}


def test_a_prompt_that_shares_nothing_waits_for_nobody() -> None:
    world = World(num_blocks=32)
    world.add(9)
    world.add(9)
    assert counts(world.step()) == {0: 9, 1: 9}


def test_what_was_preempted_is_found_again_in_the_cache() -> None:
    world = World(num_blocks=6)
    world.add(8, max_tokens=12)
    young = world.add(8, max_tokens=12)
    while world.scheduler.num_preemptions == 0:
        world.step()
    while young.status is not Status.RUNNING:
        world.step()
    assert young.num_computed_tokens > 0


@settings(max_examples=200)
@given(
    requests=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 12), st.integers(0, 2)), max_size=30),
    num_blocks=st.integers(8, 20),
    max_num_seqs=st.integers(1, 8),
    spare_budget=st.integers(0, 20),
)
def test_every_request_finishes(
    requests: list[tuple[int, int, int]], num_blocks: int, max_num_seqs: int, spare_budget: int
) -> None:
    """Any mixture, in a pool that holds at least one of them, whatever the order."""
    world = World(num_blocks, max_num_seqs, max_num_seqs + spare_budget)
    sequences = [world.add(prompt, output, priority=priority) for prompt, output, priority in requests]
    world.run()
    assert all(s.num_output_tokens == s.max_tokens for s in sequences)
    assert world.blocks.num_held == 0


class Traffic(RuleBasedStateMachine):
    """Requests come, fork off held ones, pause, resume and leave at random; invariants hold after each
    step."""

    @initialize(num_blocks=st.integers(8, 24), max_num_seqs=st.integers(1, 6), spare=st.integers(0, 16))
    def start(self, num_blocks: int, max_num_seqs: int, spare: int) -> None:
        self.world = World(num_blocks, max_num_seqs, max_num_seqs + spare)
        self.limit = max_num_seqs + spare

    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=20),
        output=st.integers(1, 12),
        priority=st.integers(0, 1),
        hold=st.booleans(),
    )
    def add(self, prompt: list[int], output: int, priority: int, hold: bool) -> None:
        self.world.add(prompt, output, priority=priority, hold=hold)

    @precondition(lambda self: self.world.scheduler.held)
    @rule(data=st.data(), keep=st.booleans(), new=st.integers(1, 4))
    def continue_held(self, data: st.DataObject, keep: bool, new: int) -> None:
        parent = data.draw(st.sampled_from(list(self.world.scheduler.held)))
        if len(parent.token_ids) + new + 4 > 32:  # what any pool here holds
            return
        child = self.world.add(parent.token_ids.tolist() + [5] * new, 4)
        child.table = self.world.blocks.fork(parent.table)
        child.num_computed_tokens = parent.num_computed_tokens
        if not keep:
            self.world.scheduler.release(parent)

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.live()))
        sequence.hold = False
        self.world.scheduler.finish(sequence)

    @precondition(lambda self: self.active())
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        self.world.scheduler.pause(data.draw(st.sampled_from(self.active())))

    @precondition(lambda self: self.world.scheduler.paused)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        self.world.scheduler.resume(data.draw(st.sampled_from(list(self.world.scheduler.paused))))

    @rule(times=st.integers(1, 5))
    def step(self, times: int) -> None:
        for _ in range(times):
            plan = self.world.step()
            assert sum(counts(plan).values()) <= self.limit
            assert bool(plan.chunks) or not self.world.scheduler.has_work

    @invariant()
    def blocks_are_accounted_for(self) -> None:
        if hasattr(self, "world"):
            scheduler = self.world.scheduler
            self.world.blocks.check(sequence.table for sequence in scheduler.sequences())
            assert scheduler.running == sorted(scheduler.running, key=lambda s: s.key)
            assert scheduler.waiting == sorted(scheduler.waiting, key=lambda s: s.key)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            for sequence in list(self.world.scheduler.paused):
                self.world.scheduler.resume(sequence)
            self.world.run()
            for sequence in list(self.world.scheduler.held):
                self.world.scheduler.release(sequence)
            assert self.world.blocks.num_held == 0

    def active(self) -> list[Sequence]:
        return [*self.world.scheduler.running, *self.world.scheduler.waiting]

    def live(self) -> list[Sequence]:
        return [*self.active(), *self.world.scheduler.paused]


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=200, stateful_step_count=40)
