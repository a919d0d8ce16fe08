"""The uniform numbers that tokens are drawn with. Every room draws the same ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniform(seeds: npt.NDArray[np.uint64], draws: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each (seed, draw), both [n]: the same on every machine, in any order.

    SplitMix64 (Steele, Lea and Flood, 2014) as a function of its counter, its start keyed by the mixed seed
    so that neighbouring seeds share no stretch of a stream. 52 bits, so that multiplying by a total stays
    below it.
    """
    with np.errstate(over="ignore"):
        bits = _mix(_mix(seeds) + draws.astype(np.uint64) * _GOLDEN)
    return (bits >> np.uint64(12)).astype(np.float64) * 2.0**-52


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
