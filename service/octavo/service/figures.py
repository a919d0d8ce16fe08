"""The figures of one answer, as a client sees them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octavo.v1 import inference_pb2


class Figures:
    """Counts from its making on: make it when the request is sent, `add` each delta when it arrives."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._began = time.monotonic()
        self._first: float | None = None
        self._num_first = 0
        self._last = self._began
        self._usage: inference_pb2.Usage | None = None

    def add(self, delta: inference_pb2.Delta) -> None:
        now = time.monotonic()
        if self._first is None and delta.usage.output_tokens:
            self._first, self._num_first = now, delta.usage.output_tokens
        self._last = now
        self._usage = delta.usage

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds; None if there was none."""
        return None if self._first is None else self._first - self._began

    @property
    def tokens_per_second(self) -> float | None:
        """The pace once the first tokens were there; None for too short an answer."""
        if self._usage is None or self._first is None or self._last <= self._first:
            return None
        return (self._usage.output_tokens - self._num_first) / (self._last - self._first)

    @property
    def kv_blocks(self) -> int:
        """Blocks that the whole sequence takes."""
        if self._usage is None:
            return 0
        return -(-(self._usage.prompt_tokens + self._usage.output_tokens) // self._block_size)

    def __str__(self) -> str:
        if self._usage is None:
            return "no tokens"
        parts = []
        if self.time_to_first_token is not None:
            parts.append(f"first token after {self.time_to_first_token:.2f} s")
        if self.tokens_per_second is not None:
            parts.append(f"{self.tokens_per_second:.1f} tokens/s")
        usage = self._usage
        parts.append(f"{usage.output_tokens} tokens from {usage.prompt_tokens} of prompt")
        parts.append(f"{usage.cached_prompt_tokens} cached")
        parts.append(f"{self.kv_blocks} KV blocks")
        return " · ".join(parts)
