"""The ops as Triton kernels: the GPU's room.

Without a GPU, Triton's interpreter runs them, slowly, where TRITON_INTERPRET=1 was set before Triton was
first imported; and its compiler checks them (`make kernels`). The interpreter has no arithmetic in bfloat16:
a kernel computes in float32, says where it rounds, and multiplies matrices with `arithmetic.dot`.
"""

from octavo.kernels.reference import copy_blocks, linear, pack_linear
from octavo.kernels.triton import (
    activation,
    adapters,
    attention_variants,
    experts,
    grouping,
    kv_cache,
    norm,
    quantized,
    routing,
    sampling,
)
from octavo.kernels.triton import rotary as _rotary
from octavo.kernels.triton.activation import gated_activation
from octavo.kernels.triton.adapters import add_adapters, plan_adapters
from octavo.kernels.triton.attention import paged_attention
from octavo.kernels.triton.experts import mixture_of_experts
from octavo.kernels.triton.kv_cache import store_kv
from octavo.kernels.triton.norm import add_rms_norm, rms_norm
from octavo.kernels.triton.plan import plan_attention
from octavo.kernels.triton.quantized import pack_quantized, quantized_linear
from octavo.kernels.triton.refusal import refusal
from octavo.kernels.triton.rotary import rotary
from octavo.kernels.triton.routing import route
from octavo.kernels.triton.sampling import sample, score

MODULES = (
    norm,
    _rotary,
    activation,
    kv_cache,
    attention_variants,
    quantized,
    grouping,
    routing,
    experts,
    adapters,
    sampling,
)
"""Every module with kernels: see `registry`."""

__all__ = [
    "MODULES",
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
    "refusal",
    "rms_norm",
    "rotary",
    "route",
    "sample",
    "score",
    "store_kv",
]
