"""What the operator adds to every model's pods, from its own settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Platform:
    """The cluster's side of a model's pods."""

    engine_image: str | None = None
    """Image of models that name none."""
    engine_environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of every engine container."""
