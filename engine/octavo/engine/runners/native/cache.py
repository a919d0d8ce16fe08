"""Packed weights kept in a file, so that a model is packed once.

Packing takes a second and a half for the demo model, reading what was packed a tenth of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

log = logging.getLogger("octavo")

VERSION = 3
"""Of the layout of packed weights: to be raised whenever kernels or layout change."""
SPARE = 1.2
"""A file system must have room for this many times the weights, so that the cache never fills it."""
UNFINISHED = ".unfinished"
ABANDONED_AFTER = 3600.0
"""Seconds since a file was last written to; packing takes minutes at most."""


def default_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "octavo" / "weights"


class WeightCache:
    """One model's packed weights in a folder, in a form described by `description`.

    files: what the weights come from; when one of them changes, it is another model.
    """

    def __init__(self, folder: Path, files: Iterable[Path], description: str) -> None:
        key = hashlib.blake2b(f"{VERSION} {description}".encode(), digest_size=16)
        for file in files:
            state = file.stat()
            key.update(f" {file.resolve()} {state.st_size} {state.st_mtime_ns}".encode())
        self.path = folder / f"{key.hexdigest()}.weights"

    def map(self, num_bytes: int) -> np.ndarray | None:
        """What is kept, uint8 [num_bytes], read-only; None if nothing is."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size != num_bytes:
                    return None
                return np.frombuffer(mmap.mmap(file.fileno(), num_bytes, access=mmap.ACCESS_READ), np.uint8)
        except (OSError, ValueError):
            return None

    def fill(self, num_bytes: int, pack: Callable[[np.ndarray], None]) -> np.ndarray | None:
        """Has `pack` write into zeros that become what is kept; None, and nothing written, without room."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            space = os.statvfs(self.path.parent)
            if space.f_bavail * space.f_frsize < SPARE * num_bytes:
                log.info("packed weights are not kept: too little room in %s", self.path.parent)
                return None
            # A name of its own: others may pack the same, and in containers all have the same process id.
            number, name = tempfile.mkstemp(UNFINISHED, dir=self.path.parent)
        except OSError as error:
            log.info("packed weights are not kept: %s", error)
            return None
        unfinished = Path(name)
        try:
            try:
                # Really taken, not promised: writing to a mapped file that cannot grow would end the process.
                os.posix_fallocate(number, 0, num_bytes)
                data = np.frombuffer(mmap.mmap(number, num_bytes), np.uint8)
            except (OSError, ValueError) as error:
                log.info("packed weights are not kept: %s", error)
                return None
            finally:
                os.close(number)
            pack(data)
            unfinished.replace(self.path)
        finally:
            unfinished.unlink(missing_ok=True)
        self._sweep()
        return data

    def _sweep(self) -> None:
        """Removes what starts that were killed while they packed have left."""
        for file in self.path.parent.glob(f"*{UNFINISHED}"):
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > ABANDONED_AFTER:
                    file.unlink()
