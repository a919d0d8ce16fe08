"""What this machine can do at most, in figures that measurements of the kernels are held against."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from octavo.kernels.cpu.library import library


@dataclass(frozen=True, slots=True)
class Limits:
    """memory_read: bytes per second. bf16, int8: operations per second, a multiplication and an addition
    counted as two, of the instructions that products are made of."""

    memory_read: float
    bf16: float
    int8: float


def measure(num_threads: int, repeats: int = 5) -> Limits:
    """The best of `repeats` tries each, half a second in all. OSError where the kernels were not compiled."""
    lib = library()
    pool = lib.octavo_pool_new(num_threads, None)
    try:
        data = np.ones(1 << 28, np.uint8)

        def rate(run: object, amount: float | None = None) -> float:
            best = 0.0
            for _ in range(repeats):
                start = time.perf_counter()
                done = run()  # type: ignore[operator]
                best = max(best, (amount or done) / (time.perf_counter() - start))
            return best

        return Limits(
            memory_read=rate(
                lambda: lib.octavo_read_memory(pool, data.ctypes.data, data.nbytes), data.nbytes
            ),
            bf16=rate(lambda: lib.octavo_multiply(pool, 1_000_000, False)),
            int8=rate(lambda: lib.octavo_multiply(pool, 1_000_000, True)),
        )
    finally:
        lib.octavo_pool_free(pool)
