"""A draft model: its guesses are what it would generate itself, whatever happened to its blocks
before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.engine.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.engine.models.source import open_model
from octavo.engine.params import SamplingParams
from octavo.engine.runners import Runner
from octavo.engine.runners.build import build_runner
from octavo.engine.speculation.draft_model import DraftModelProposer
from octavo.engine.speculation.proposer import NOTHING, Outlook

from ..conftest import run
from .conftest import Text, text

VOCAB_SIZE = 384


@pytest.fixture(scope="module")
def runner(tiny_model: Callable[..., Path]) -> Runner:
    folder = str(tiny_model("llama"))
    config = EngineConfig(model=folder, dtype="float32", threads=1)
    return build_runner(open_model(folder), config, 512, lambda name: None)


@pytest.fixture(scope="module")
def other_runner(tiny_model: Callable[..., Path]) -> Runner:
    """The same model with a pool of its own."""
    folder = str(tiny_model("llama"))
    config = EngineConfig(model=folder, dtype="float32", threads=1)
    return build_runner(open_model(folder), config, 512, lambda name: None)


def proposer_on(
    runner: Runner, num_blocks: int = 64, budget: int = 512, max_model_len: int = 512
) -> DraftModelProposer:
    sizes = {"max_model_len": max_model_len, "vocab_size": VOCAB_SIZE, "budget": budget}
    proposer = DraftModelProposer(runner, **sizes)
    proposer.allocate(num_blocks)
    return proposer


def guesses(proposer: DraftModelProposer, *wanted: tuple[Text, int]) -> list[list[int]]:
    """As the speculator asks: an outlook of each, then the drafts."""
    for sequence, count in wanted:
        proposer.outlook(sequence, count)
    drafts = proposer.propose(wanted)
    proposer.check()
    return drafts


GREEDY = SamplingParams(temperature=0, max_tokens=15, ignore_eos=True)
DRAWN = SamplingParams(temperature=0.8, top_p=0.95, max_tokens=15, seed=7, ignore_eos=True)
CUT = SamplingParams(temperature=1.2, top_k=20, min_p=0.05, max_tokens=15, seed=2**63, ignore_eos=True)


def test_a_model_that_drafts_for_itself_is_always_right(
    smollm2: Engine, real_prompts: list[list[int]]
) -> None:
    """SmolLM2 draws the same tokens as its own draft model as it does in the engine, with the same
    seeds."""
    prompts, params = real_prompts[:4], [GREEDY, DRAWN, CUT, GREEDY]
    outputs = run(smollm2, prompts, params)
    proposer = DraftModelProposer(smollm2._runner, max_model_len=2048, vocab_size=49152, budget=512)
    proposer.allocate(200)
    texts = [
        text(*prompt, params=each, seed=each.seed or 0)
        for prompt, each in zip(prompts, params, strict=True)  # as the engine has them
    ]
    for step in range(3):
        drafts = guesses(proposer, *[(each, 4) for each in texts])
        for each, draft, output in zip(texts, drafts, outputs, strict=True):
            done = each.num_output_tokens
            assert draft == output[done : done + 4]
            each.extend(output[done : done + 5 - step])  # all and a token more, or fewer are accepted


def test_it_computes_a_prompt_once(runner: Runner) -> None:
    proposer, sequence = proposer_on(runner), text(*range(10, 60))
    assert proposer.outlook(sequence, 4) == Outlook((0, 0, 0, 0), 48)
    [draft] = guesses(proposer, (sequence, 4))
    assert proposer.num_caught_up == 50
    sequence.extend((*draft, 9))
    assert proposer.outlook(sequence, 4).lag == 0, "but for the last guess and the token after it"
    guesses(proposer, (sequence, 4))
    assert proposer.num_caught_up == 0


def test_a_wrong_guess_leaves_no_trace(runner: Runner, other_runner: Runner) -> None:
    proposer, sequence = proposer_on(runner), text(*range(10, 40))
    [draft] = guesses(proposer, (sequence, 6))
    sequence.extend([*draft[:2], (draft[2] + 1) % VOCAB_SIZE])
    assert guesses(proposer, (sequence, 6)) == guesses(proposer_on(other_runner), (sequence, 6))


def test_catching_up_takes_as_many_steps_as_the_budget_makes_it(runner: Runner, other_runner: Runner) -> None:
    proposer, long, short = proposer_on(runner, budget=32), text(*range(5, 95)), text(*range(5, 15))
    [expected] = guesses(proposer_on(other_runner), (long, 3))
    found = [guesses(proposer, (long, 3), (short, 3)) for _ in range(4)]
    assert [draft for draft, _ in found] == [[], [], [], expected]
    assert all(len(draft) == 3 for _, draft in found), "those that lack little are not kept waiting"


def test_equal_prefixes_are_computed_once(runner: Runner, other_runner: Runner) -> None:
    proposer, prompt = proposer_on(runner), list(range(10, 50))
    guesses(proposer, (text(*prompt, 1), 2))
    twin = text(*prompt, 2, 3)
    assert proposer.outlook(twin, 2).lag == 42 - 32 - 2, "two full blocks are there"
    assert guesses(proposer, (twin, 5)) == guesses(proposer_on(other_runner), (twin, 5))


def test_what_it_forgot_stays_cached_for_a_continuation(runner: Runner) -> None:
    proposer, sequence = proposer_on(runner), text(*range(10, 50))
    guesses(proposer, (sequence, 2))
    proposer.forget(sequence)
    proposer.forget(sequence)
    assert proposer.blocks.num_held == 0
    assert proposer.outlook(text(*range(10, 60)), 2).lag == 50 - 32 - 2


def test_those_that_were_not_guessed_for_longest_lose_their_blocks(runner: Runner) -> None:
    """A pool of six blocks and three sequences that need three each."""
    proposer, texts = proposer_on(runner, num_blocks=6), [text(*[first] * 40) for first in (1, 2, 3)]
    for each in texts:
        [draft] = guesses(proposer, (each, 4))
        assert len(draft) == 4
    assert list(proposer.contexts) == texts[1:]


def test_there_is_no_draft_where_blocks_run_out(runner: Runner) -> None:
    proposer, texts = proposer_on(runner, num_blocks=6), [text(*[first] * 40) for first in (1, 2, 3)]
    drafts = guesses(proposer, *[(each, 4) for each in texts])
    assert sorted(map(len, drafts)) == [0, 4, 4]


def test_it_guesses_up_to_the_end_of_its_context(runner: Runner) -> None:
    proposer = proposer_on(runner, max_model_len=40)
    assert proposer.outlook(text(*range(38)), 8).kinds == (0, 0, 0)
    assert proposer.outlook(text(*range(41)), 8) == NOTHING
    [draft] = guesses(proposer, (text(*range(38)), 3))
    assert len(draft) == 3


def test_it_stops_where_the_sequence_would(runner: Runner) -> None:
    proposer, sequence = proposer_on(runner), text(*range(10, 40))
    [draft] = guesses(proposer, (sequence, 6))
    sequence.stop_tokens = frozenset(draft[2:3])
    assert guesses(proposer, (sequence, 6)) == [draft[: draft.index(draft[2]) + 1]]


def test_tokens_that_only_one_of_the_models_has_are_neither_read_nor_guessed(
    runner: Runner,
) -> None:
    proposer, sequence = proposer_on(runner), text(*range(10, 40))
    [draft] = guesses(proposer, (sequence, 4))
    narrow = DraftModelProposer(runner, max_model_len=512, vocab_size=max(draft), budget=512)
    narrow.allocate(64)
    assert guesses(narrow, (sequence, 4)) == [draft[: draft.index(max(draft))]]
    assert guesses(narrow, (text(1, 2, max(draft)), 4)) == [[]]


@pytest.fixture(scope="module")
def oracle(other_runner: Runner) -> Callable[[Text, int], list[int]]:
    """What the model generates after a text, computed from nothing."""

    def generate(sequence: Text, count: int) -> list[int]:
        twin = Text(sequence.token_ids[:], sequence.num_prompt_tokens, sequence.sampling)
        [draft] = proposer_on(other_runner, num_blocks=32).propose([(twin, count)])
        return draft

    return generate


class Adventure:
    """Sequences that are begun, guessed for, verified, cut back and forgotten, in a pool that is too
    small."""

    def __init__(self, proposer: DraftModelProposer, oracle: Callable[[Text, int], list[int]]) -> None:
        self.proposer, self.oracle = proposer, oracle
        self.texts: list[Text] = []

    def begin(self, prefix: int, length: int, seed: int) -> None:
        params = DRAWN if seed % 2 else GREEDY
        self.texts.append(text(*[prefix] * 20, *range(length), params=params, seed=seed))

    def guess(self, who: int, count: int, accepted: int, drawn: int) -> None:
        """For every sequence but those that `who` has the bits of; then each accepts so many guesses."""
        wanted = [(each, count) for i, each in enumerate(self.texts) if not who >> i & 1]
        for (each, _), draft in zip(wanted, guesses(self.proposer, *wanted), strict=True):
            if draft:
                assert draft == self.oracle(each, count)
            each.extend([*draft[:accepted], drawn])

    def cut(self, which: int, by: int) -> None:
        if self.texts:
            each = self.texts[which % len(self.texts)]
            each.cut(max(len(each.token_ids) - by, 1))

    def forget(self, which: int) -> None:
        if self.texts:
            self.proposer.forget(self.texts.pop(which % len(self.texts)))


moves = st.one_of(
    st.tuples(st.just("begin"), st.integers(1, 2), st.integers(1, 30), st.integers(0, 9)),
    *[st.tuples(st.just("guess"), *map(st.integers, (0, 1, 0, 0), (7, 5, 5, 99)))] * 2,
    st.tuples(st.just("cut"), st.integers(0, 9), st.integers(1, 40)),
    st.tuples(st.just("forget"), st.integers(0, 9)),
)


@settings(max_examples=25)
@given(st.lists(moves, min_size=10, max_size=30), st.integers(6, 12), st.sampled_from([16, 512]))
def test_guesses_are_right_and_blocks_add_up_whatever_happens(
    runner: Runner,
    oracle: Callable[[Text, int], list[int]],
    moves: list[tuple[str, int]],
    num_blocks: int,
    budget: int,
) -> None:
    adventure = Adventure(proposer_on(runner, num_blocks, budget), oracle)
    for name, *numbers in moves:
        getattr(adventure, name)(*numbers)
        adventure.proposer.check()
    while adventure.texts:
        adventure.forget(0)
    assert adventure.proposer.blocks.num_held == 0
