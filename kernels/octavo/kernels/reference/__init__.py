"""The ops in a few lines of torch each: the oracle of the native kernels, and what serves without them."""

from octavo.kernels.reference.attention import paged_attention, plan_attention
from octavo.kernels.reference.decoder import (
    copy_blocks,
    gated_activation,
    linear,
    rms_norm,
    rotary,
    store_kv,
)
from octavo.kernels.reference.sampling import sample

__all__ = [
    "copy_blocks",
    "gated_activation",
    "linear",
    "paged_attention",
    "plan_attention",
    "rms_norm",
    "rotary",
    "sample",
    "store_kv",
]
