"""What several kernels compute with."""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

INTERPRETED = tl.constexpr(bool(knobs.runtime.interpret))


@triton.jit
def dot(a, b):
    """a: [m, k], b: [k, n] of one type → [m, n] in float32.

    float32 is multiplied as such, not as TF32. Triton's interpreter keeps bfloat16 as the integer of its
    bits, and would multiply those.
    """
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def tanh(x):
    """Of float32; right at both ends, where the exponential is 0 or infinite."""
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)
