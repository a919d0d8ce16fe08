"""A model's configuration as its file states it, read key by key, each with a clear error of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from octavo.engine.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Config:
    """Values in the vocabulary of Hugging Face's config.json, and the defaults of keys that are missing.

    source: the file that is named in errors.
    keys: the names that the file itself has for some keys, for errors.
    """

    source: str
    values: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)

    def get(self, key: str) -> Any:
        return self.values.get(key, self.defaults.get(key))

    def integer(self, key: str) -> int:
        """A positive integer."""
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.refusal(key, "must be a positive integer")
        return value

    def number(self, key: str) -> float:
        """A positive number."""
        value = self.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise self.refusal(key, "must be a positive number")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.get(key)
        if not isinstance(value, bool):
            raise self.refusal(key, "must be true or false")
        return value

    def section(self, key: str, defaults: Mapping[str, Any]) -> Config:
        """The object at `key`, as a configuration of its own."""
        value = self.get(key)
        if not isinstance(value, Mapping):
            raise self.refusal(key, "must be an object")
        return Config(f"{self.source}: {key}", value, defaults)

    def refusal(self, key: str, rule: str) -> ModelError:
        value = self.get(key)
        found = "is missing" if value is None else f"is {value!r}"
        return ModelError(f"{self.source}: {self.keys.get(key, key)} {found}; it {rule}")


def read_json(file: Path) -> dict[str, Any]:
    """The object in `file`. Raises ModelError where it is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: invalid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file}: must hold a JSON object, not a {type(value).__name__}")
    return value
