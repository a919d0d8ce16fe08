"""Proposer and governor together, as the engine calls them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from octavo.engine.speculation.ngram import NgramProposer
from octavo.engine.speculation.speculator import Speculator

from .conftest import Text, text
from .simulation import CURVES, Curve


class Scripted:
    """A target whose outputs are known, behind a speculator. Steps take what the curve says."""

    def __init__(self, curve: Curve, most: int = 8) -> None:
        self.speculator = Speculator(NgramProposer(), most, clock=lambda: 0.0)
        self.curve = curve
        self.seconds = 0.0

    def generate(self, scripts: Sequence[tuple[list[int], list[int]]]) -> list[Text]:
        """All prompts at once; the texts once the last output is complete."""
        texts = [text(*prompt) for prompt, _ in scripts]
        for each, (_, output) in zip(texts, scripts, strict=True):
            each.max_tokens = len(output)
        going = [(each, output) for each, (_, output) in zip(texts, scripts, strict=True)]
        while going:
            self.step(going)
            for each, output in going:
                if each.num_output_tokens == len(output):
                    self.speculator.forget(each)
            going = [(each, output) for each, output in going if each.num_output_tokens < len(output)]
        return texts

    def step(self, going: Sequence[tuple[Text, list[int]]]) -> None:
        self.speculator.propose([each for each, _ in going])
        size = len(going) + sum(len(each.draft) for each, _ in going)
        for each, output in going:
            left, draft = output[each.num_output_tokens :], each.draft
            assert len(draft) < len(left), "the last token need not be guessed"
            accepted = next((i for i, guess in enumerate(draft) if guess != left[i]), len(draft))
            each.extend(left[: accepted + 1])
            if draft:
                self.speculator.verified(each, len(draft), accepted)
        self.seconds += self.curve(size)
        self.speculator.timed(size, len(going), self.curve(size))


def noise(length: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(50_000) for _ in range(length)]


def edited(original: list[int], seed: int) -> list[int]:
    """The text with some tokens replaced, dropped or put in after every 15 to 60."""
    draw, result, at = random.Random(seed), [], 0
    while at < len(original):
        length = draw.randint(15, 60)
        result += original[at : at + length] + noise(draw.randint(0, 3), seed + at)
        at += length + draw.randint(0, 2)
    return result


DEVICES = ["cpu, flat to 4", "cpu, flat to 8", "gpu, flat to 64", "dear second token"]


@pytest.mark.parametrize("device", DEVICES)
def test_editing_a_text_is_much_faster(device: str) -> None:
    engine, prompt = Scripted(CURVES[device]), noise(600, seed=1)
    output = edited(prompt, seed=2)
    [result] = engine.generate([(prompt, output)])
    assert result.token_ids[600:].tolist() == output
    assert len(output) * engine.curve(1) / engine.seconds > 1.5


@pytest.mark.parametrize("device", CURVES)
def test_a_random_text_is_hardly_slower(device: str) -> None:
    """Of few different tokens, so that there is always something to guess, and nothing to it."""
    engine, draw = Scripted(CURVES[device]), random.Random(3)
    script = [[draw.randrange(12) for _ in range(400)] for _ in range(2)]
    engine.generate([(script[0], script[1])])
    assert len(script[1]) * engine.curve(1) / engine.seconds > 0.95


def test_one_of_many_sequences_may_copy() -> None:
    engine, prompt = Scripted(CURVES["gpu, flat to 64"]), noise(300, seed=1)
    copying = (prompt, prompt)
    others = [(noise(50, seed), noise(300, seed + 100)) for seed in range(7)]
    engine.generate([copying, *others])
    assert engine.speculator.num_accepted > 240


def test_it_counts_what_was_verified() -> None:
    engine, prompt = Scripted(CURVES["gpu, flat to 64"]), noise(200, seed=1)
    engine.generate([(prompt, prompt)])
    assert 150 < engine.speculator.num_accepted <= engine.speculator.num_proposed < 220


def test_a_sequence_that_lost_its_blocks_begins_anew() -> None:
    engine, prompt = Scripted(CURVES["gpu, flat to 64"]), noise(200, seed=1)
    sequence = text(*prompt)
    going = [(sequence, prompt)]
    for _ in range(10):
        engine.step(going)
    before = sequence.num_output_tokens
    engine.speculator.forget(sequence)
    for _ in range(5):
        engine.step(going)
    assert sequence.num_output_tokens > before + 30


def test_drafts_end_with_a_token_that_ends_the_sequence() -> None:
    engine, prompt = Scripted(CURVES["gpu, flat to 64"]), [*range(100), 7, 7, *range(100)]
    sequence = text(*prompt)
    sequence.stop_tokens = frozenset({50})
    drafts: list[list[int]] = []
    for token in range(48):
        engine.speculator.propose([sequence])
        drafts.append(sequence.draft)
        sequence.extend([token])
        engine.speculator.timed(1 + len(sequence.draft), 1, 0.03)
    assert drafts[-1][-1] == 50 or not drafts[-1]
    assert all(50 not in draft[:-1] for draft in drafts)
    assert any(draft[-1:] == [50] for draft in drafts)


def test_a_draft_that_was_not_used_does_not_stay() -> None:
    speculator, sequence = Speculator(NgramProposer(), 8, clock=lambda: 0.0), text(1, 2, 3)
    sequence.draft = [4, 5]
    speculator.propose([sequence])
    assert sequence.draft == []
