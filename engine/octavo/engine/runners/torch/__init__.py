"""The runner on PyTorch: any decoder that a `DecoderSpec` describes, on any device, with Triton's
kernels on a GPU and the reference ones elsewhere."""

from octavo.engine.runners.torch.runner import TorchRunner

__all__ = ["TorchRunner"]
