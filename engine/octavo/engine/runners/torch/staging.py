"""The way between host and device: arrays go there from pinned memory, results come back to it, and the host
waits for neither until it needs the results."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch

from octavo.kernels.reference.end_to_end import Views, lay, total_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor

    from octavo.engine.batch import StepOutput


@dataclass(slots=True)
class _Buffer:
    """One step's arrays end to end, on the host and on the device.

    used: bytes that are written; sent: of these, those that a copy is under way for.
    """

    host: Tensor
    array: np.ndarray
    device: Tensor
    used: int = 0
    sent: int = 0
    copied: Any = None

    @classmethod
    def of(cls, num_bytes: int, device: torch.device) -> _Buffer:
        host = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
        return cls(host, host.numpy(), torch.empty(num_bytes, dtype=torch.uint8, device=device))


class Staging:
    """Two buffers in turn, for the two steps of which one is computed and one prepared.

    On a CPU the memory is not pinned and the copies are done at once; all else is the same.
    """

    def __init__(self, device: torch.device, num_bytes: int = 1 << 16) -> None:
        self._device = device
        self._buffers = [_Buffer.of(num_bytes, device) for _ in range(2)]
        self._turn = 0

    def begin(self) -> None:
        """A step begins: what was put for the one before the last is overwritten from here on."""
        self._turn = 1 - self._turn
        buffer = self._buffers[self._turn]
        if buffer.copied is not None:
            buffer.copied.synchronize()
        buffer.used = buffer.sent = 0

    def put(self, array: np.ndarray) -> Tensor:
        """Where the array will be on the device, once `send` is called; of its type and shape."""
        return Views(self.put_together([array]))(array)

    def put_together(self, arrays: Sequence[np.ndarray]) -> Tensor:
        """The same of arrays in one piece, uint8, of which `Views` are the arrays."""
        size = total_bytes(arrays)
        buffer = self._buffers[self._turn]
        if buffer.used + size > len(buffer.array):
            self.send()
            # The views of the old buffer keep it while they are needed.
            buffer = _Buffer.of(2 * max(len(buffer.array), size), self._device)
            self._buffers[self._turn] = buffer
        place = slice(buffer.used, buffer.used + size)
        lay(arrays, buffer.array[place])
        buffer.used += size
        return buffer.device[place]

    def send(self) -> None:
        """Begins to copy what was put since the last call."""
        buffer = self._buffers[self._turn]
        if buffer.sent == buffer.used:
            return
        part = slice(buffer.sent, buffer.used)
        buffer.device[part].copy_(buffer.host[part], non_blocking=True)
        buffer.sent = buffer.used
        if self._device.type == "cuda":
            buffer.copied = _recorded()

    def put_and_send(self, array: np.ndarray) -> Tensor:
        """For what is known late."""
        tensor = self.put(array)
        self.send()
        return tensor


class Results:
    """A step's output on its way to the host. See `octavo.engine.runners.Submitted`."""

    def __init__(self, output: StepOutput) -> None:
        """output: its fields are tensors of the device."""
        self._output = _map(output, _begin_to_fetch)
        self._fetched = _recorded() if _on_gpu(output) else None

    def result(self) -> StepOutput:
        if self._fetched is not None:
            self._fetched.synchronize()
        return _map(self._output, lambda tensor: tensor.numpy())


def _recorded() -> Any:
    """An event that comes when the device has done all that was asked of it so far."""
    event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event


def _begin_to_fetch(tensor: Tensor) -> Tensor:
    if tensor.device.type == "cpu":
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def _on_gpu(output: StepOutput) -> bool:
    tensors = (output.token_ids, output.scored and output.scored.logprobs)
    return any(isinstance(each, torch.Tensor) and each.device.type == "cuda" for each in tensors)


def _map(output: StepOutput, function: Any) -> StepOutput:
    """The output with every tensor replaced by what the function makes of it."""
    changed: dict[str, Any] = {}
    for field in fields(output):
        value: Any = getattr(output, field.name)
        if isinstance(value, torch.Tensor):
            changed[field.name] = function(value)
    if output.scored is not None:
        changed["scored"] = _map(output.scored, function)
    return replace(output, **changed)
