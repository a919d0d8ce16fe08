"""Which tile was the fastest on this card: kept on disk by `python -m octavo.kernels.triton.tune`.

Nothing is measured while a model serves: a step would wait for it, and two pods would not compute alike.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING

import torch

from octavo.kernels.triton.registry import Tile, cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Choices = dict[str, Tile]
"""By kernel and key."""


def chosen(kernel: str, key: str) -> Tile | None:
    return _choices().get(f"{kernel}: {key}")


@contextlib.contextmanager
def trial(kernel: str, key: str, tile: Tile) -> Iterator[None]:
    """Launches take this tile meanwhile."""
    choices = _choices()
    before = dict(choices)
    choices[f"{kernel}: {key}"] = tile
    try:
        yield
    finally:
        choices.clear()
        choices.update(before)


def keep(kernel: str, key: str, tile: Tile) -> None:
    """From now on, also after a restart."""
    choices = _choices()
    choices[f"{kernel}: {key}"] = tile
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({name: asdict(tile) for name, tile in sorted(choices.items())}, indent=1))
    partial.replace(path)


@cache
def _choices() -> Choices:
    path = _path()
    if not path.exists():
        return {}
    return {name: Tile(**fields) for name, fields in json.loads(path.read_text()).items()}


def _path() -> Path:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "interpreter"
    return cache_folder() / "tiles" / f"{name.replace(' ', '-').replace('/', '-')}.json"
