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
        form = self._form_of(name)
        if form is None:
            return self.ops.pack_linear(weight, bias)
        return self.ops.pack_quantized(weight, bias, form, GROUP if form == "int4" else None)

    def __call__(self, x: Tensor, layer: Any) -> Tensor:
        """x: [num_tokens, n], layer: of `pack`, one of a layer's → [num_tokens, m]."""
        return self.ops.linear(x, layer) if self.form is None else self.ops.quantized_linear(x, layer)

    def bytes_each(self, name: str, itemsize: int) -> float:
        """Of an element of the weight of this name."""
        form = self._form_of(name)
        return itemsize if form is None else BYTES[form]

    def _form_of(self, name: str) -> str | None:
        of_a_layer = name.startswith("layers.") and not name.endswith(("norm", ".bias"))
        return self.form if of_a_layer else None


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
