"""The runner on PyTorch: any decoder that a `DecoderSpec` describes, on any device, with the reference
kernels."""

from octavo.engine.runners.torch.runner import TorchRunner

__all__ = ["TorchRunner"]
