"""What a model's owner asks of its scaling."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """How many pods a model may have, and how full they should be. Times in seconds.

    Raises ValueError with the field, the value and the rule if one is out of range.
    """

    min_replicas: int = 1
    """Fewest pods. 0 lets an idle model go to zero; while it has load there is always one pod."""
    max_replicas: int = 1
    """Most pods, at least 1 and at least `min_replicas`."""
    target_kv_utilization: float = 0.7
    """Held blocks ÷ all blocks that the pods should have, in (0, 1]."""
    target_waiting_tokens: int = 4096
    """Prompt tokens that may wait per pod, at least 1."""
    tolerance: float = 0.1
    """How far load ÷ target may be from 1 without a change, in [0, 1)."""
    scale_up_stabilization: float = 0.0
    """The least that was recommended within this time limits growth."""
    scale_down_stabilization: float = 300.0
    """The most that was recommended within this time limits shrinking."""
    scale_to_zero_after: float = 600.0
    """Time without any request after which a model with `min_replicas` 0 has no pods."""

    def __post_init__(self) -> None:
        for name, holds, rule in (
            ("min_replicas", self.min_replicas >= 0, "must not be negative"),
            (
                "max_replicas",
                self.max_replicas >= max(1, self.min_replicas),
                "must be ≥ 1 and ≥ min_replicas",
            ),
            ("target_kv_utilization", 0 < self.target_kv_utilization <= 1, "must be in (0, 1]"),
            ("target_waiting_tokens", self.target_waiting_tokens >= 1, "must be at least 1"),
            ("tolerance", 0 <= self.tolerance < 1, "must be in [0, 1)"),
            ("scale_up_stabilization", self.scale_up_stabilization >= 0, "must not be negative"),
            ("scale_down_stabilization", self.scale_down_stabilization >= 0, "must not be negative"),
            ("scale_to_zero_after", self.scale_to_zero_after >= 0, "must not be negative"),
        ):
            if not holds:
                raise ValueError(f"{name} {getattr(self, name)} {rule}")
