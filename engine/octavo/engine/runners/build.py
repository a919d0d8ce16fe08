"""Which runner serves a model: the native one on a CPU, PyTorch's on everything else, on one rank or more."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from octavo.engine.errors import ConfigError
from octavo.engine.models.shard import check_divides
from octavo.engine.parallel.group import ALONE

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo.engine.config import EngineConfig
    from octavo.engine.models.files import ModelFiles
    from octavo.engine.parallel.group import Group
    from octavo.engine.runners import Runner

log = logging.getLogger("octavo")

GPU_DEVICES = ("dev/nvidia0", "dev/nvidiactl", "dev/kfd", "dev/dxg")
"""What a machine has in /dev where torch could find a GPU: looking is free, importing torch takes seconds."""


def build_runner(
    files: ModelFiles, config: EngineConfig, max_model_len: int, on_weight: Callable[[str], None]
) -> Runner:
    """A runner with its weights loaded. Raises ConfigError or ModelError."""
    check_divides(files.spec, config.tensor_parallel_size, files.name)
    config = replace(config, runner=choose_runner(files, config))
    if config.tensor_parallel_size == 1:
        return build_part(files, config, max_model_len, on_weight)
    if config.device.startswith("cuda:"):
        raise ConfigError(
            f"device: must be cuda, cpu or auto for {config.tensor_parallel_size} ranks, each of which takes "
            f"the GPU of its own number (got {config.device!r})"
        )
    from octavo.engine.parallel.runner import ParallelRunner

    return ParallelRunner(files, config, max_model_len, on_weight)


def build_part(
    files: ModelFiles,
    config: EngineConfig,
    max_model_len: int,
    on_weight: Callable[[str], None],
    group: Group = ALONE,
) -> Runner:
    """One rank's runner, of the kind that `config.runner` names."""
    if config.runner == "native":
        from octavo.engine.runners.native import NativeRunner

        return NativeRunner(files, config, max_model_len, on_weight, group)
    from octavo.engine.runners.torch import TorchRunner  # imports torch, which takes seconds

    return TorchRunner(files, config, max_model_len, on_weight, group)


def choose_runner(files: ModelFiles, config: EngineConfig) -> Literal["native", "torch"]:
    """What `runner=auto` means here. Raises ConfigError where the chosen one cannot do what is asked."""
    on_cpu = config.device == "cpu" or (config.device == "auto" and not has_gpu())
    if on_cpu and config.cuda_graphs == "on":
        raise ConfigError("cuda_graphs: must be off or auto on a CPU (got 'on')")
    if config.runner != "torch" and on_cpu:
        from octavo.engine.runners.native import refusal

        reason = refusal(files, config)
        if reason is None:
            return "native"
        if config.runner == "native":
            raise ConfigError(f"runner: native cannot serve {files.name}: {reason}")
        log.warning("the native runner cannot serve %s, so PyTorch does: %s", files.name, reason)
    elif config.runner == "native":
        raise ConfigError(f"runner: native computes on a CPU only (got device {config.device!r})")
    return "torch"


def has_gpu(root: Path = Path("/")) -> bool:
    return any((root / device).exists() for device in GPU_DEVICES)
