"""What the ranks of a decoder do together: sums of hidden states, and logits on rank 0."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed
from torch import Tensor

from octavo.engine.parallel.exchange import SLOT_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from octavo.engine.parallel.exchange import Exchange
    from octavo.engine.parallel.group import Group

LIBRARY: Any = torch.distributed
"""Its process groups by themselves, without the global state around them, are not in its types."""
TIMEOUT = timedelta(minutes=1)
"""After which NCCL and gloo give up by themselves."""


class Collectives(Protocol):
    """All ranks call the same methods in the same order, with tensors of the same type."""

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of all ranks' x, in place: contiguous, of one shape everywhere, and bit for bit the same on
        all ranks."""
        ...

    def gather(self, x: Tensor, widths: Sequence[int]) -> Tensor:
        """x: [num_rows, widths[rank]] → on rank 0 all ranks' side by side, [num_rows, sum(widths)]; on the
        others x."""
        ...


def join(group: Group, device: torch.device) -> Collectives:
    """What serves a group on a device: NCCL between GPUs, on a CPU shared memory, or gloo without that."""
    if group.size == 1:
        return Alone()
    if device.type == "cpu" and group.exchange is not None and group.is_ordered:
        return SharedMemory(group.exchange, group.rank)
    return ProcessGroup(group, device)


class Alone:
    """A group of one."""

    def all_reduce(self, x: Tensor) -> Tensor:
        return x

    def gather(self, x: Tensor, widths: Sequence[int]) -> Tensor:
        return x


class SharedMemory:
    """Over an `Exchange`. Every rank adds up all parts itself, in the order of the ranks."""

    def __init__(self, exchange: Exchange, rank: int) -> None:
        self._exchange = exchange
        self._rank = rank
        self._sets: dict[torch.dtype, list[list[Tensor]]] = {}

    def all_reduce(self, x: Tensor) -> Tensor:
        for piece in torch.split(x.view(-1), SLOT_BYTES // x.itemsize):
            slots = self._next_slots(x.dtype)
            slots[self._rank][: len(piece)] = piece
            self._exchange.meet()
            first, second, *rest = (slot[: len(piece)] for slot in slots)
            if not rest:
                torch.add(first, second, out=piece)
                continue
            total = first.to(torch.float32, copy=True).add_(second)
            for part in rest:
                total.add_(part)
            piece.copy_(total)
        return x

    def gather(self, x: Tensor, widths: Sequence[int]) -> Tensor:
        num_rows, row_bytes = len(x), max(widths) * x.itemsize
        assert row_bytes <= SLOT_BYTES
        together = x.new_empty(num_rows, sum(widths)) if self._rank == 0 else None
        at_once = SLOT_BYTES // row_bytes
        for rows in (slice(first, first + at_once) for first in range(0, num_rows, at_once)):
            slots = self._next_slots(x.dtype)
            if together is None:
                slots[self._rank][: x[rows].numel()] = x[rows].view(-1)
            self._exchange.meet()
            if together is not None:
                parts = torch.split(together[rows], list(widths), dim=1)
                parts[0].copy_(x[rows])
                for part, slot in zip(parts[1:], slots[1:], strict=True):
                    part.copy_(slot[: part.numel()].view(part.shape))
        return x if together is None else together

    def _next_slots(self, dtype: torch.dtype) -> list[Tensor]:
        if dtype not in self._sets:
            self._sets[dtype] = [
                [torch.from_numpy(slot).view(dtype) for slot in slots] for slots in self._exchange.sets
            ]
        return self._sets[dtype][self._exchange.next_set]


class ProcessGroup:
    """Over one of torch's process groups, NCCL's or gloo's."""

    def __init__(self, group: Group, device: torch.device) -> None:
        assert group.rendezvous is not None
        self._rank, self._size = group.rank, group.size
        store = LIBRARY.FileStore(str(group.rendezvous), group.size)
        self._group = (_nccl if device.type == "cuda" else _gloo)(store, group.rank, group.size)

    def all_reduce(self, x: Tensor) -> Tensor:
        self._group.allreduce([x]).wait()
        return x

    def gather(self, x: Tensor, widths: Sequence[int]) -> Tensor:
        # All parts must be of one shape.
        padded = x.new_zeros(len(x), max(widths))
        padded[:, : x.shape[1]] = x
        parts = [torch.empty_like(padded) for _ in widths] if self._rank == 0 else []
        options = LIBRARY.GatherOptions()
        options.rootRank = 0
        self._group.gather([parts] if parts else [], [padded], options).wait()
        if not parts:
            return x
        return torch.cat([part[:, :width] for part, width in zip(parts, widths, strict=True)], dim=1)


def _nccl(store: Any, rank: int, size: int) -> Any:
    options = LIBRARY.ProcessGroupNCCL.Options()
    options._timeout = TIMEOUT
    return LIBRARY.ProcessGroupNCCL(store, rank, size, options)


def _gloo(store: Any, rank: int, size: int) -> Any:
    options = LIBRARY.ProcessGroupGloo._Options()
    options._timeout = TIMEOUT
    # A pod may have no name that resolves to itself.
    options._devices = [LIBRARY.ProcessGroupGloo.create_device(interface="lo")]
    return LIBRARY.ProcessGroupGloo(store, rank, size, options)
