"""How much memory a process holds."""

from __future__ import annotations

from pathlib import Path


def resident_bytes(pid: int | str = "self", *, of: str = "Rss") -> int:
    """of: a line of smaps_rollup; Rss counts mapped files too, Private_Dirty what is this process's alone."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == of:
            return int(rest.split()[0]) * 1024
    raise ValueError(f"/proc/{pid}/smaps_rollup has no line {of}")
