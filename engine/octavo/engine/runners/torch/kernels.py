"""Which room's kernels the torch runner computes with."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from octavo.engine.errors import ConfigError
from octavo.kernels import reference

if TYPE_CHECKING:
    import torch

    from octavo.engine.config import EngineConfig
    from octavo.engine.models.spec import DecoderSpec
    from octavo.kernels.ops import Ops

log = logging.getLogger("octavo")


def choose_kernels(config: EngineConfig, spec: DecoderSpec, device: torch.device) -> Ops[torch.Tensor]:
    """Triton's on a GPU, if they can serve the model, the reference's elsewhere; or those of
    `config.kernels`.

    Raises ConfigError where the kernels that are asked for cannot serve.
    """
    if config.kernels == "reference" or (config.kernels == "auto" and device.type != "cuda"):
        return reference
    try:
        from octavo.kernels import triton
    except ImportError as error:
        reason: str | None = f"Triton cannot be imported: {error}"
    else:
        reason = triton.refusal(device, spec.hidden_size, spec.head_dim)
        if reason is None:
            return triton
    if config.kernels == "triton":
        raise ConfigError(f"kernels: triton cannot serve: {reason} (got 'triton')")
    log.warning("Triton's kernels cannot serve, so PyTorch's own do: %s", reason)
    return reference
