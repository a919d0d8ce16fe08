"""The paged engine. Importing it is cheap: nothing here imports torch before a model is loaded."""

from __future__ import annotations

from octavo.engine.config import EngineConfig
from octavo.engine.errors import (
    ConfigError,
    EngineStopped,
    InvalidRequest,
    ModelError,
    OctavoError,
    QueueFull,
    Violation,
)
from octavo.engine.output import Delta, FinishReason, TokenLogprobs, Usage
from octavo.engine.params import SamplingParams

__all__ = [
    "ConfigError",
    "Delta",
    "EngineConfig",
    "EngineStopped",
    "FinishReason",
    "InvalidRequest",
    "ModelError",
    "OctavoError",
    "QueueFull",
    "SamplingParams",
    "TokenLogprobs",
    "Usage",
    "Violation",
]
