"""Rotary frequencies: what a RopeSpec means in numbers, equal to Transformers' `ROPE_INIT_FUNCTIONS`."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from octavo.engine.models.spec import (
    DynamicScaling,
    FrequencyFactors,
    LinearScaling,
    Llama3Scaling,
    RopeSpec,
    YarnScaling,
)

Frequencies = npt.NDArray[np.float32]


def inverse_frequencies(rope: RopeSpec, max_len: int) -> tuple[Frequencies, float]:
    """The angle per position of each rotated pair, and the factor that multiplies cosines and sines.

    Returns float32 [rotary_dim / 2] and the attention scale, 1 for all scalings but YaRN.
    max_len: longest sequence that is served, in tokens; only DynamicScaling depends on it.
    """
    plain = _plain(rope.theta, rope.rotary_dim)
    match rope.scaling:
        case None:
            return plain, 1.0
        case LinearScaling(factor):
            return np.divide(plain, factor, dtype=np.float32), 1.0
        case FrequencyFactors(factors):
            divisors: Frequencies = np.array(factors, np.float32)
            return plain / divisors, 1.0
        case DynamicScaling() as scaling:
            return _plain(_dynamic_theta(rope, scaling, max_len), rope.rotary_dim), 1.0
        case Llama3Scaling() as scaling:
            return _llama3(plain, scaling), 1.0
        case YarnScaling() as scaling:
            return _yarn(rope, scaling), _yarn_attention_factor(scaling)


def _plain(theta: float, rotary_dim: int) -> Frequencies:
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    frequencies: Frequencies = np.float32(1) / np.power(np.float32(theta), exponents)
    return frequencies


def _dynamic_theta(rope: RopeSpec, scaling: DynamicScaling, max_len: int) -> float:
    length, dim = max(max_len, scaling.original_max_position), rope.rotary_dim
    stretch = scaling.factor * length / scaling.original_max_position - (scaling.factor - 1)
    return float(rope.theta * stretch ** (dim / (dim - 2)))


def _llama3(plain: Frequencies, scaling: Llama3Scaling) -> Frequencies:
    """Wavelengths to `original / high_freq_factor` stay, those from `original / low_freq_factor` stretch."""
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    rotations = scaling.original_max_position * plain / np.float32(2 * math.pi)
    kept = np.clip((rotations - low) / (high - low), 0, 1)
    frequencies: Frequencies = kept * plain + (1 - kept) * plain / np.float32(scaling.factor)
    return frequencies


def _yarn(rope: RopeSpec, scaling: YarnScaling) -> Frequencies:
    """NTK-by-parts (Peng et al., 2023, section 3.2): the ramp runs over the index of the pair."""
    dim, original = rope.rotary_dim, scaling.original_max_position

    def pair_that_rotates(times: float) -> float:
        return dim * math.log(original / (times * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair_that_rotates(scaling.beta_fast), pair_that_rotates(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = high - low or 0.001  # the paper's ramp has no width when both ends meet
    interpolated = np.clip((np.arange(dim // 2, dtype=np.float32) - low) / width, 0, 1)
    plain = _plain(rope.theta, dim)
    stretched = plain / np.float32(scaling.factor)
    frequencies: Frequencies = stretched * interpolated + plain * (1 - interpolated)
    return frequencies


def _yarn_attention_factor(scaling: YarnScaling) -> float:
    if scaling.attention_factor is not None:
        return scaling.attention_factor

    def temperature(mscale: float) -> float:
        return 1.0 if scaling.factor <= 1 else 0.1 * mscale * math.log(scaling.factor) + 1.0

    if scaling.mscale and scaling.mscale_all_dim:
        return temperature(scaling.mscale) / temperature(scaling.mscale_all_dim)
    return temperature(1.0)
