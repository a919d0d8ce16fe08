"""The ops in a few lines of torch each: the oracle of the native kernels, and what serves without them."""

from octavo.kernels.reference.adapters import add_adapters, plan_adapters
from octavo.kernels.reference.attention import paged_attention, plan_attention, store_kv
from octavo.kernels.reference.decoder import (
    add_rms_norm,
    copy_blocks,
    gated_activation,
    rms_norm,
    rotary,
)
from octavo.kernels.reference.experts import mixture_of_experts, route
from octavo.kernels.reference.linear import linear, pack_linear
from octavo.kernels.reference.quantized import pack_quantized, quantized_linear
from octavo.kernels.reference.sampling import sample, score

__all__ = [
    "add_adapters",
    "add_rms_norm",
    "copy_blocks",
    "gated_activation",
    "linear",
    "mixture_of_experts",
    "pack_linear",
    "pack_quantized",
    "paged_attention",
    "plan_adapters",
    "plan_attention",
    "quantized_linear",
    "rms_norm",
    "rotary",
    "route",
    "sample",
    "score",
    "store_kv",
]
