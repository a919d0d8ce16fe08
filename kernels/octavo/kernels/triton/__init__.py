"""The ops as Triton kernels: the GPU's room.

Without a GPU, Triton's interpreter runs them, slowly, where TRITON_INTERPRET=1 was set before Triton was
first imported; and its compiler checks them (`make kernels`). The interpreter has no arithmetic in bfloat16:
a kernel computes in float32 and says where it rounds.
"""

from octavo.kernels.triton import norm
from octavo.kernels.triton.norm import add_rms_norm, rms_norm

MODULES = (norm,)
"""Every module with kernels: see `registry`."""

__all__ = ["MODULES", "add_rms_norm", "rms_norm"]
