"""What is learned of how long steps take."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.engine.speculation.measured import Measured
from octavo.engine.speculation.step_times import StepTimes, monotone

values = st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=1, max_size=12)


@given(values)
def test_monotone_values_ascend_and_keep_the_mean(pairs: list[tuple[float, float]]) -> None:
    given_values, weights = [value for value, _ in pairs], [weight for _, weight in pairs]
    fitted = monotone(given_values, weights)
    assert all(a <= b + 1e-9 for a, b in pairwise(fitted))
    mean = np.average(given_values, weights=weights)
    assert np.average(fitted, weights=weights) == pytest.approx(mean)


@given(values)
def test_ascending_values_stay_as_they_are(pairs: list[tuple[float, float]]) -> None:
    ascending = sorted({value for value, _ in pairs})
    assert monotone(ascending, [1.0] * len(ascending)) == ascending


def learned(sizes: list[int], steps: int = 200, noise: float = 0.0, flat: int = 8) -> StepTimes:
    draw, times = random.Random(0), StepTimes()
    for step in range(steps):
        size = sizes[step % len(sizes)]
        times.measure(size, 1, 0.03 * max(1, size / flat) * draw.lognormvariate(0, noise))
    return times


def test_times_are_those_of_the_device() -> None:
    times = learned([1, 4, 8, 16], noise=0.1)
    usual = times.forecast(1, 15).usual * times.level
    assert usual[[0, 3, 7, 15]] == pytest.approx([0.03, 0.03, 0.03, 0.06], rel=0.15)


def test_beyond_what_was_measured_times_grow_as_tokens_do() -> None:
    usual = learned([1, 4]).forecast(4, 8).usual
    assert usual[8] == pytest.approx(3 * usual[0])


def test_hope_goes_twice_as_far_as_what_is_known() -> None:
    hopeful = learned([1, 4]).forecast(4, 8).hopeful
    assert hopeful[4] == pytest.approx(hopeful[0])
    assert hopeful[5] > 2 * hopeful[0]


def test_what_was_measured_leaves_nothing_to_hope() -> None:
    forecast = learned([1, 2, 4, 5, 6, 7, 8, 10, 12, 14, 16]).forecast(1, 15)
    assert forecast.hopeful == pytest.approx(forecast.usual)


def test_noise_makes_it_careful() -> None:
    calm, noisy = learned([1, 8]), learned([1, 8], noise=0.2)
    assert calm.forecast(1, 7).cautious == pytest.approx(calm.forecast(1, 7).usual)
    assert (noisy.forecast(1, 7).cautious > 1.05 * noisy.forecast(1, 7).usual).all()


def test_a_busier_machine_changes_the_level_and_not_the_shape() -> None:
    times = learned([1, 16])
    before = times.forecast(1, 15).usual
    for _ in range(20):
        times.measure(16, 1, 0.3)
    after = times.forecast(1, 15).usual
    assert times.level * after[15] == pytest.approx(0.3, rel=0.1)
    assert after[15] / after[0] == pytest.approx(before[15] / before[0], rel=0.4)


def test_what_is_not_measured_any_more_is_trusted_less() -> None:
    measured = Measured()
    for now in range(50):
        measured.add(2.0, now)
    assert measured.value == pytest.approx(2.0)
    assert measured.trust(50) > 15
    assert measured.trust(50 + 128) == pytest.approx(measured.trust(50) / 2)
    measured.add(8.0, 10_000)
    assert measured.value == pytest.approx(8.0, rel=0.01)
