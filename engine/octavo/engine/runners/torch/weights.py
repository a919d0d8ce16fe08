"""A checkpoint's weights on the device, those that are computed as one in one tensor."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from octavo.engine.models.files import ModelFiles
    from octavo.engine.models.shard import Shard
    from octavo.engine.models.spec import Weight

# Weights that are computed as one product, in the order of the spec's names.
PACKED = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}
LINEAR = {"qkv", "o", "gate_up", "down", "output"}

Pack = Callable[[str, torch.Tensor, torch.Tensor | None], Any]


def load_weights(
    files: ModelFiles,
    shard: Shard,
    dtype: torch.dtype,
    device: torch.device,
    pack: Pack,
    on_weight: Callable[[str], None],
) -> dict[str, Any]:
    """A rank's part of every weight by its canonical name, `qkv` and `gate_up` from their parts; `on_weight`
    hears of each.

    A linear layer and its bias are what `pack` makes of them once all of it has been read, so that few at a
    time are on the device as they were.
    """
    shapes = shard.spec.weight_shapes()
    groups: dict[str, list[str]] = {}
    for name in shapes:
        groups.setdefault(_packed_name(name), []).append(name)
    missing = Counter(_packed_name(name).removesuffix(".bias") for name in shapes)
    loaded: dict[str, Any] = {}
    parts: dict[str, torch.Tensor] = {}
    for weight in files.weights(shard=shard):
        group = _packed_name(weight.name)
        if group not in loaded:
            names = groups[group]
            sizes = [shapes[name][0] for name in names]
            loaded[group] = torch.empty((sum(sizes), *shapes[names[0]][1:]), dtype=dtype, device=device)
            parts.update(zip(names, torch.split(loaded[group], sizes), strict=True))
        parts.pop(weight.name).copy_(_from_numpy(weight))
        linear = group.removesuffix(".bias")
        missing[linear] -= 1
        if not missing[linear] and linear.rpartition(".")[2] in LINEAR:
            loaded[linear] = pack(linear, loaded[linear], loaded.pop(f"{linear}.bias", None))
        on_weight(weight.name)
    return loaded


def _packed_name(name: str) -> str:
    return ".".join(PACKED.get(part, part) for part in name.split("."))


def _from_numpy(weight: Weight) -> torch.Tensor:
    with warnings.catch_warnings():
        # torch warns that it could write to a read-only mapping; it is only read here.
        warnings.simplefilter("ignore", UserWarning)
        tensor = torch.from_numpy(np.ascontiguousarray(weight.data))
    return tensor.view(torch.bfloat16) if weight.dtype == "bfloat16" else tensor
