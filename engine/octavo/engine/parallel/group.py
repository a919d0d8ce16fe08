"""Who computes a model together, as each of them is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from octavo.engine.parallel.exchange import Exchange


@dataclass(frozen=True, slots=True)
class Group:
    """One rank's place among `size`.

    exchange: memory that all ranks share; None where this machine's processors do not order stores as it
        needs them to.
    rendezvous: a path of no file, at which a communication library may let the ranks find each other.
    """

    rank: int = 0
    size: int = 1
    exchange: Exchange | None = None
    rendezvous: Path | None = None


ALONE = Group()
