"""How many times as fast as the best peer of its precision Octavo means to be."""

from __future__ import annotations

TARGETS: dict[str, dict[str, float]] = {
    "bf16": {
        "single": 2.0,
        "batch-32": 1.35,
        "prefill": 1.15,
        "shared-prefix": 1.5,
        "parallel-8": 1.5,
    },
    "int8": {"single": 2.0, "batch-32": 2.0, "prefill": 1.8, "shared-prefix": 1.5, "parallel-8": 2.0},
    "4-bit": {"single": 1.7},
}
