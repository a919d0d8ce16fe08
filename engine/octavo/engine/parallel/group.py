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

    exchange: memory that all ranks share.
    is_ordered: whether what is not native can meet there; see `octavo.engine.parallel.exchange.is_possible`.
    rendezvous: a path of no file, at which a communication library may let the ranks find each other.
    """

    rank: int = 0
    size: int = 1
    exchange: Exchange | None = None
    is_ordered: bool = True
    rendezvous: Path | None = None


ALONE = Group()
