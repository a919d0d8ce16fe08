"""In how many bits the torch runner keeps a decoder's linear layers, and what multiplies with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from octavo.engine.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from octavo.engine.models.spec import DecoderSpec
    from octavo.kernels.ops import Ops

GROUP = 32
"""Weights of 4 bits that share a scale: as many as on a CPU, and as in GGUF's blocks."""
BYTES = {"fp8": 1.0, "int8": 1.0, "int4": 0.5 + 4 / GROUP}
"""Of a weight in each form, a group's scale and minimum included; a scale for a row is next to nothing."""


@dataclass(frozen=True, slots=True)
class Linears:
    """The layers' products by `form`: of `Ops.pack_quantized`, or None for weights of the model's type.

    Embedding and output stay in that type: they cost little of a large model, and the output decides which
    of two close tokens is taken.
    """

    ops: Ops[Tensor]
    form: str | None

    def pack(self, name: str, weight: Tensor, bias: Tensor | None) -> Any:
        """name: canonical, which says whether the weight is of a layer."""
        if self._is_quantised(name):
            assert self.form is not None
            return self.ops.pack_quantized(weight, bias, self.form, GROUP if self.form == "int4" else None)
        return self.ops.pack_linear(weight, bias)

    def __call__(self, x: Tensor, layer: Any) -> Tensor:
        """x: [num_tokens, n], layer: of `pack`, one of a layer's → [num_tokens, m]."""
        return self.ops.linear(x, layer) if self.form is None else self.ops.quantized_linear(x, layer)

    def bytes_each(self, name: str, itemsize: int) -> float:
        """Of an element of the weight of this name."""
        return BYTES[self.form] if self.form is not None and self._is_quantised(name) else itemsize

    def _is_quantised(self, name: str) -> bool:
        return self.form is not None and name.startswith("layers.") and not name.endswith(("norm", ".bias"))


def choose_linears(ops: Ops[Tensor], quantization: str, spec: DecoderSpec) -> Linears:
    """spec: of a rank's part. Raises ConfigError for sizes that cannot be cut into groups."""
    if quantization == "int4":
        for what, n in (
            ("hidden size", spec.hidden_size),
            ("heads' common size", spec.num_heads * spec.head_dim),
            ("intermediate size", spec.intermediate_size),
        ):
            if n % GROUP:
                raise ConfigError(
                    f"quantization: int4 has a scale for each {GROUP} weights of a row, and a rank's "
                    f"{what}, {n}, is no multiple of that (got 'int4')"
                )
    return Linears(ops, quantization if quantization in BYTES else None)
