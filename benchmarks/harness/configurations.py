"""In which precisions Octavo is measured, and how each is set."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from benchmarks.harness.roofline import Roofline, Shape

from octavo.engine.config import EngineConfig

if TYPE_CHECKING:
    from benchmarks.harness.machine import Limits


@dataclass(frozen=True, slots=True)
class Configuration:
    """settings: fields of EngineConfig. weight_bytes: of one weight; None where weights are computed from as
    the checkpoint has them packed. precision: of the weights, and of the peers that it is compared with."""

    name: str
    precision: str
    settings: dict[str, Any]
    weight_bytes: float | None

    @property
    def is_supported(self) -> bool:
        return self.settings.keys() <= {field.name for field in fields(EngineConfig)}

    def roofline(self, shape: Shape, limits: Limits) -> Roofline:
        packed = self.weight_bytes is None
        weight_bytes = shape.packed_bytes if packed else shape.weights * (self.weight_bytes or 0)
        kv_bytes = 1.0 if self.settings.get("kv_cache_dtype") == "int8" else 2.0
        rate = limits.bf16 if self.precision == "bf16" else limits.int8
        return Roofline(shape, limits, weight_bytes, rate, kv_bytes)


BF16 = {"dtype": "bfloat16", "quantization": "none"}
INT8 = {"dtype": "bfloat16", "quantization": "int8"}
# As OpenVINO's CPU plugin has keys and values unless it is told otherwise, beside weights of 16 bits, too.
KV8 = {"kv_cache_dtype": "int8"}
CONFIGURATIONS = (
    Configuration("bf16", "bf16", BF16, 2.0),
    Configuration("bf16-kv8", "bf16", BF16 | KV8, 2.0),
    Configuration("int8", "int8", INT8 | KV8, 1.0),
    Configuration("4-bit", "4-bit", {"dtype": "auto", "quantization": "auto"}, None),
)
ONE_OF_EACH = [c.name for c in CONFIGURATIONS if c.name == c.precision]
"""Of every precision."""


def configuration(name: str) -> Configuration:
    """By its name. An engine that does not quantise yet computes in bf16 alone, and has no word for it."""
    [found] = (each for each in CONFIGURATIONS if each.name == name)
    if name == "bf16" and not found.is_supported:
        return replace(found, settings={"dtype": "bfloat16"})
    return found


def supported(names: list[str]) -> tuple[list[Configuration], list[str]]:
    """Those that this engine can be set to, and the names of the others."""
    every = [configuration(name) for name in names]
    return [c for c in every if c.is_supported], [c.name for c in every if not c.is_supported]
