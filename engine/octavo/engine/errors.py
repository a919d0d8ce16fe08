"""What can go wrong, as the engine tells it. The service turns each of these into one gRPC status."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One bad field: its dotted name, the value that was given, and the rule that it breaks."""

    field: str
    value: object
    rule: str

    def __str__(self) -> str:
        text = repr(self.value)
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        return f"{self.field}: {self.rule} (got {shown})"


class OctavoError(Exception):
    """Base of all errors that Octavo raises on purpose."""


class InvalidRequest(OctavoError, ValueError):
    """A request that no engine of this model can serve; nothing was queued."""

    def __init__(self, *violations: Violation) -> None:
        super().__init__("; ".join(map(str, violations)))
        self.violations = violations


class QueueFull(OctavoError):
    """The waiting queue is full; try again after `retry_after` seconds."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(
            f"{waiting} requests are waiting, which is the limit; try again in {retry_after:.1f} s"
        )
        self.retry_after = retry_after


class EngineStopped(OctavoError):
    """The engine is draining, was stopped or has failed; another one may serve the request."""


class RankLost(EngineStopped):
    """One of the processes that compute a model together has ended, hangs or could not keep up."""


class ModelError(OctavoError):
    """A model that cannot be loaded: missing, truncated, or of an unsupported architecture."""


class ConfigError(OctavoError, ValueError):
    """A setting that cannot work; the message names the setting, its value and the rule."""
