"""A GPU for tests whose tensors are on the CPU: a launch takes them there, and brings back what it has
written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from triton.runtime.jit import JITFunction


def launch_there(patch: pytest.MonkeyPatch) -> None:
    run = JITFunction.run

    def taken_there(self: Any, *args: Any, **options: Any) -> Any:
        storages: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

        def there(value: Any) -> Any:
            """The same view, gaps and all, of the same memory as another argument that shares it."""
            if not isinstance(value, torch.Tensor) or value.is_cuda:
                return value
            here = value.untyped_storage()
            if here.data_ptr() not in storages:
                storages[here.data_ptr()] = here, here.cuda()
            moved = torch.empty(0, dtype=value.dtype, device="cuda")
            return moved.set_(
                storages[here.data_ptr()][1], value.storage_offset(), value.shape, value.stride()
            )  # type: ignore[call-overload]

        result = run(self, *map(there, args), **{name: there(value) for name, value in options.items()})
        for here, copy in storages.values():
            here.copy_(copy)
        return result

    patch.setattr(JITFunction, "run", taken_there)
