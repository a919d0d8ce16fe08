"""The paged engine. Importing it is cheap: nothing here imports torch before a model is loaded."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from octavo.engine.async_engine import AsyncEngine
    from octavo.engine.chat import ChatMessage
    from octavo.engine.llm import LLM, Completion
    from octavo.engine.stream import Stream

_LAZY = {
    "LLM": "llm",
    "AsyncEngine": "async_engine",
    "ChatMessage": "chat",
    "Completion": "llm",
    "Stream": "stream",
}

__all__ = [
    "LLM",
    "AsyncEngine",
    "ChatMessage",
    "Completion",
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
    "Stream",
    "TokenLogprobs",
    "Usage",
    "Violation",
]


def __getattr__(name: str) -> Any:
    # NumPy, tokenizers and Jinja take longer to import than the command has for showing its help.
    if name in _LAZY:
        return getattr(import_module(f"octavo.engine.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
