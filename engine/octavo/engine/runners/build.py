"""Which runner serves a model: the native one on a CPU, PyTorch's on everything else."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from octavo.engine.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo.engine.config import EngineConfig
    from octavo.engine.models.files import ModelFiles
    from octavo.engine.runners import Runner

log = logging.getLogger("octavo")

GPU_DEVICES = ("dev/nvidia0", "dev/nvidiactl", "dev/kfd", "dev/dxg")
"""What a machine has in /dev where torch could find a GPU: looking is free, importing torch takes seconds."""


def build_runner(
    files: ModelFiles, config: EngineConfig, max_model_len: int, on_weight: Callable[[str], None]
) -> Runner:
    """A runner with its weights loaded. Raises ConfigError or ModelError."""
    on_cpu = config.device == "cpu" or (config.device == "auto" and not has_gpu())
    if config.runner == "torch":
        return _torch(files, config, max_model_len, on_weight)
    if not on_cpu:
        if config.runner == "native":
            raise ConfigError(f"runner: native computes on a CPU only (got device {config.device!r})")
        return _torch(files, config, max_model_len, on_weight)
    from octavo.engine.runners.native import NativeRunner, refusal

    reason = refusal(files, config)
    if reason is None:
        return NativeRunner(files, config, max_model_len, on_weight)
    if config.runner == "native":
        raise ConfigError(f"runner: native cannot serve {files.name}: {reason}")
    log.warning("the native runner cannot serve %s, so PyTorch does: %s", files.name, reason)
    return _torch(files, config, max_model_len, on_weight)


def has_gpu(root: Path = Path("/")) -> bool:
    return any((root / device).exists() for device in GPU_DEVICES)


def _torch(
    files: ModelFiles, config: EngineConfig, max_model_len: int, on_weight: Callable[[str], None]
) -> Runner:
    if config.quantization in ("int8", "int4"):
        raise ConfigError(
            f"quantization: only the native runner quantises weights (got {config.quantization!r})"
        )
    from octavo.engine.runners.torch import TorchRunner  # imports torch, which takes seconds

    return TorchRunner(files, config, max_model_len, on_weight)
