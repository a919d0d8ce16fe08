"""The governor in simulated engines: speculation never costs much, and brings what it can."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.engine.speculation.governor import Governor
from octavo.engine.speculation.proposer import NOTHING, Outlook

from .simulation import CURVES, World, affine, always, flat_then_linear

curves = st.one_of(
    st.sampled_from([*CURVES.values()]),
    st.builds(flat_then_linear, st.integers(1, 128)),
    st.builds(affine, st.floats(0, 0.1), st.floats(0.001, 0.1)),
)
batches = st.sampled_from([1, 2, 3, 8, 16, 48])


@pytest.mark.no_cover
@pytest.mark.parametrize("batch", [1, 4, 16, 64])
@pytest.mark.parametrize("curve", CURVES)
def test_guesses_that_are_never_right_cost_little(curve: str, batch: int) -> None:
    world = World(curve=CURVES[curve], batch=batch, acceptance=always(0.0))
    assert world.speedup(600) > 1 / 1.05


@pytest.mark.no_cover
@pytest.mark.parametrize("batch", [1, 4, 16, 64])
@pytest.mark.parametrize("curve", CURVES)
def test_good_guesses_bring_nearly_what_the_best_fixed_number_would(curve: str, batch: int) -> None:
    world = World(curve=CURVES[curve], batch=batch, acceptance=always(0.9))
    assert world.speedup(600) > 0.85 * world.best_fixed(300)


@pytest.mark.no_cover
@settings(max_examples=40)
@given(curves, batches, st.floats(0, 1), st.floats(0, 0.05), st.integers(0, 9))
def test_it_never_loses_much_whatever_device_and_text(curve, batch, rate, noise, seed) -> None:
    """Where the gain is none or nearly so, noise may hide a small loss for a while."""
    world = World(curve=curve, batch=batch, acceptance=always(rate), noise=noise)
    assert world.speedup(600, seed=seed) > 0.94


@pytest.mark.no_cover
@settings(max_examples=40)
@given(curves, batches, st.floats(0, 0.05), st.integers(0, 9))
def test_it_loses_less_where_guesses_are_never_right(curve, batch, noise, seed) -> None:
    world = World(curve=curve, batch=batch, acceptance=always(0.0), noise=noise)
    assert world.speedup(600, seed=seed) > 0.95


@pytest.mark.no_cover
@settings(max_examples=20)
@given(curves, batches, st.floats(0, 0.05), st.integers(0, 9))
def test_nor_with_sequences_that_are_short(curve, batch, noise, seed) -> None:
    world = World(curve=curve, batch=batch, acceptance=always(0.0), noise=noise, length=40)
    assert world.speedup(600, seed=seed) > 0.95


@pytest.mark.no_cover
@settings(max_examples=20)
@given(curves, batches, st.integers(0, 9))
def test_nor_with_a_draft_model_that_must_catch_up(curve, batch, seed) -> None:
    plain = curve(batch)
    world = World(
        curve=curve,
        batch=batch,
        acceptance=always(0.0),
        prompt=500,
        length=200,
        round_seconds=0.1 * plain,
        lag_seconds=0.005 * plain,
    )
    assert world.speedup(800, seed=seed) > 0.94


def test_a_draft_model_is_worth_its_time_where_it_is() -> None:
    world = World(curve=CURVES["gpu, flat to 64"], batch=8, acceptance=always(0.8), round_seconds=0.003)
    assert world.speedup(600) > 0.9 * world.best_fixed(300)


@pytest.mark.no_cover
def test_noise_does_not_mislead_it_for_long() -> None:
    for curve in CURVES.values():
        assert World(curve=curve, batch=4, acceptance=always(0.0), noise=0.15).speedup(600) > 0.95


@pytest.mark.parametrize("curve", ["cpu, flat to 4", "cpu, flat to 8", "gpu, flat to 64"])
def test_it_follows_a_text_that_changes_its_character(curve: str) -> None:
    """Every 200 tokens guesses stop being right, or begin to be."""
    world = World(curve=CURVES[curve], batch=1, acceptance=lambda _, at: 0.95 * (at // 200 % 2))
    good = World(curve=CURVES[curve], batch=1, acceptance=always(0.95)).best_fixed(300)
    assert world.speedup(2000) > 0.9 * 2 / (1 + 1 / good)


def test_it_guesses_for_the_sequences_that_are_worth_it() -> None:
    governor, copying, other = Governor(1), object(), object()
    guesses = {copying: 0, other: 0}
    for _ in range(300):
        counts = governor.plan([(copying, Outlook((0,) * 8)), (other, Outlook((0,) * 8))])
        for key, count in zip((copying, other), counts, strict=True):
            guesses[key] += count
            governor.verified(key, count, count if key is copying else 0)
        governor.timed(2 + sum(counts), 2, 0.03 + 0.002 * sum(counts))
    assert guesses[copying] > 7 * 250
    assert guesses[other] < 100


def test_kinds_of_guesses_are_told_apart() -> None:
    """Guesses of kind 1 are right, those of kind 0 are not; which kind there is changes from step to
    step."""
    governor, key = Governor(2), object()
    guesses = [0, 0]
    for step in range(400):
        kind = step % 2
        [count] = governor.plan([(key, Outlook((kind,) * 8))])
        if step >= 100:
            guesses[kind] += count
        governor.verified(key, count, count * kind)
        governor.timed(1 + count, 1, 0.03 + 0.003 * count)
    assert guesses[1] > 7 * 140
    assert guesses[0] < 50


def test_the_more_others_decode_the_less_is_guessed() -> None:
    """On a device that is flat to 8 tokens, 7 others leave no room for guesses."""
    curve, counts = flat_then_linear(8), {}
    for others in (0, 7):
        governor, key = Governor(1), object()
        for _ in range(200):
            [count] = governor.plan([(key, Outlook((0,) * 8))], others)
            governor.verified(key, count, round(0.7 * count))
            governor.timed(1 + others + count, 1 + others, curve(1 + others + count))
        counts[others] = count
    assert counts[0] >= 5
    assert counts[7] == 0


def test_nothing_is_guessed_before_steps_without_guesses_were_timed() -> None:
    governor = Governor(1)
    assert governor.plan([(object(), Outlook((0,) * 8))]) == [0]


def test_no_more_is_planned_than_could_be_guessed() -> None:
    governor, keys = Governor(1), [object(), object()]
    for _ in range(50):
        counts = governor.plan([(keys[0], Outlook((0,) * 2)), (keys[1], NOTHING)])
        assert counts[0] <= 2
        assert counts[1] == 0
        governor.verified(keys[0], counts[0], counts[0])
        governor.timed(2 + counts[0], 2, 0.03)


def test_drafts_may_be_shortened_or_dropped() -> None:
    """The scheduler found room for every other draft, and for half of it."""
    governor, key = Governor(1), object()
    for step in range(100):
        [count] = governor.plan([(key, Outlook((0,) * 8))])
        computed = (count + 1) // 2 * (step % 2)
        if computed:
            governor.verified(key, computed, computed)
        governor.timed(1 + computed, 1, 0.03)
    assert count >= 4


def test_a_sequence_that_ended_in_the_step_still_teaches() -> None:
    governor = Governor(1)
    for _ in range(100):
        key = object()
        [count] = governor.plan([(key, Outlook((0,) * 8))])
        governor.forget(key)
        governor.verified(key, count, 0)
        governor.timed(1 + count, 1, 0.03 * (1 + count / 2))
    assert count == 0


def test_equal_calls_lead_to_equal_plans() -> None:
    world = World(curve=CURVES["affine"], batch=3, acceptance=always(0.6), noise=0.05)
    assert world.speedup(200) == world.speedup(200)
