"""One engine, one process: what it prints as lines of JSON."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed(Exception):
    """The last of what it said."""

    command: str
    last_words: str

    def __str__(self) -> str:
        return f"{self.command} failed: {self.last_words}"


@dataclass(frozen=True, slots=True)
class Command:
    """environment: beside this process's own. folder: where it runs."""

    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None

    def lines(self, timeout: float = 1800.0) -> list[Line]:
        """What it printed, line by line; Failed if it ended badly or in silence."""
        done = subprocess.run(
            self.words,
            env={**os.environ, **self.environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode or not lines:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise Failed(" ".join(self.words[:3]), said[-1] if said else f"status {done.returncode}")
        return lines
