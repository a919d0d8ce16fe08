"""What the operator adds to every model's pods, from its own settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from octavo.operator.desired.devices import devices

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Platform:
    """The cluster's side of a model's pods."""

    engine_image: str | None = None
    """Image of models that name none."""
    engine_environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of every engine container."""
    engine_cpu_image: str | None = None
    """Image of models that name none and whose pods have no device; `engine_image` if None."""

    def image_for(self, resources: dict[str, Any]) -> str | None:
        """The image of pods with these resource requirements."""
        needs_torch = devices(resources)
        return self.engine_image if needs_torch else self.engine_cpu_image or self.engine_image
