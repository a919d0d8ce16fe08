"""A checkpoint's weights on the device, those that are computed as one in one tensor."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo.engine.models.files import ModelFiles
    from octavo.engine.models.shard import Shard
    from octavo.engine.models.spec import Weight

# Weights that are computed as one product, in the order of the spec's names.
PACKED = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}


def load_weights(
    files: ModelFiles,
    shard: Shard,
    dtype: torch.dtype,
    device: torch.device,
    on_weight: Callable[[str], None],
) -> dict[str, torch.Tensor]:
    """A rank's part of every weight by its canonical name, `qkv` and `gate_up` from their parts; `on_weight`
    hears of each."""
    shapes = shard.spec.weight_shapes()
    groups: dict[str, list[str]] = {}
    for name in shapes:
        groups.setdefault(_packed_name(name), []).append(name)
    packed: dict[str, torch.Tensor] = {}
    parts: dict[str, torch.Tensor] = {}
    for group, names in groups.items():
        sizes = [shapes[name][0] for name in names]
        packed[group] = torch.empty((sum(sizes), *shapes[names[0]][1:]), dtype=dtype, device=device)
        parts.update(zip(names, torch.split(packed[group], sizes), strict=True))
    for weight in files.weights(shard=shard):
        parts[weight.name].copy_(_from_numpy(weight))
        on_weight(weight.name)
    return packed


def _packed_name(name: str) -> str:
    return ".".join(PACKED.get(part, part) for part in name.split("."))


def _from_numpy(weight: Weight) -> torch.Tensor:
    with warnings.catch_warnings():
        # torch warns that it could write to a read-only mapping; it is only read here.
        warnings.simplefilter("ignore", UserWarning)
        tensor = torch.from_numpy(np.ascontiguousarray(weight.data))
    return tensor.view(torch.bfloat16) if weight.dtype == "bfloat16" else tensor
