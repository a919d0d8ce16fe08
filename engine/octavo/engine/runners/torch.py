"""The runner on PyTorch: any decoder that a `DecoderSpec` describes, on any device, with the reference
kernels."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from octavo.engine.batch import Batch, StepOutput
from octavo.engine.config import BLOCK_SIZE
from octavo.engine.errors import ConfigError
from octavo.engine.memory import available_cpus, available_memory
from octavo.engine.models.rope import inverse_frequencies
from octavo.kernels import reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo.engine.config import EngineConfig
    from octavo.engine.models.files import ModelFiles
    from octavo.engine.models.spec import Weight
    from octavo.kernels.ops import Ops

# Weights that are computed as one product, in the order of the spec's names.
PACKED = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}


class TorchRunner:
    """Weights of layer i are `self._layers[i][name]`, `qkv` and `gate_up` packed from their parts."""

    def __init__(
        self,
        files: ModelFiles,
        config: EngineConfig,
        max_model_len: int,
        on_weight: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._spec = spec = files.spec
        self._device = _device(config.device)
        self._dtype = _dtype(config, files, self._device)
        self.device, self.dtype = str(self._device), str(self._dtype).removeprefix("torch.")
        self._ops: Ops[torch.Tensor] = reference
        # While loaders dequantise in threads of their own, more of torch's would only stand in their way.
        torch.set_num_threads(1)
        self._weights = self._load(files, on_weight)
        torch.set_num_threads(config.threads or available_cpus())
        self._layers = [self._layer(i) for i in range(spec.num_layers)]
        self._cos, self._sin = self._rotations(max_model_len)
        self.block_bytes = BLOCK_SIZE * spec.kv_elements_per_token * self._dtype.itemsize
        self._caches: list[tuple[torch.Tensor, torch.Tensor]] = []

    def free_memory(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.mem_get_info(self._device)[0]
        return available_memory()

    def allocate(self, num_blocks: int) -> None:
        spec = self._spec
        shape = (num_blocks, BLOCK_SIZE, spec.num_kv_heads, spec.head_dim)
        # Zeros, not garbage: padding is masked after the product, and a NaN survives any mask.
        try:
            self._caches = [(self._zeros(shape), self._zeros(shape)) for _ in range(spec.num_layers)]
        except (RuntimeError, MemoryError) as error:
            needed = num_blocks * self.block_bytes / 2**30
            raise ConfigError(f"kv_cache_memory: {needed:.1f} GiB could not be allocated: {error}") from error

    def run(self, batch: Batch) -> StepOutput:
        with torch.inference_mode():
            self._copy_blocks(batch.copies)
            logits = self._forward(batch)
            if not len(batch.sampling):
                return StepOutput(token_ids=np.empty(0, np.int32))
            token_ids, logprobs, top_ids, top_logprobs = self._ops.sample(logits, batch.sampling)
        return StepOutput(token_ids=token_ids, logprobs=logprobs, top_ids=top_ids, top_logprobs=top_logprobs)

    def logits(self, batch: Batch) -> np.ndarray:
        """float32 [num_rows, vocab_size]: the logits that `run` would draw from, before any penalty. For
        tests."""
        with torch.inference_mode():
            self._copy_blocks(batch.copies)
            return self._forward(batch).float().cpu().numpy()

    def _forward(self, batch: Batch) -> torch.Tensor:
        """Logits, [num_rows, vocab_size], of the rows to sample."""
        spec, ops, eps = self._spec, self._ops, self._spec.norm_eps
        positions = self._tensor(batch.positions)
        rows = self._tensor(batch.sampling.rows)
        cos, sin = self._cos[positions], self._sin[positions]
        slots = self._tensor(_slots(batch))
        plan = ops.plan_attention(
            batch.query_lens, batch.context_lens, batch.block_tables, BLOCK_SIZE, self._weights["embedding"]
        )
        scale = spec.head_dim**-0.5
        x = self._weights["embedding"][self._tensor(batch.token_ids)]
        for i, layer in enumerate(self._layers):
            keys, values = self._caches[i]
            h = ops.rms_norm(x, layer["attention_norm"], eps)
            q, k, v = self._qkv(h, layer)
            q, k = ops.rotary(q, cos, sin), ops.rotary(k, cos, sin)
            ops.store_kv(k, v, keys, values, slots)
            h = ops.paged_attention(q, keys, values, plan, scale, spec.sliding_window(i)).flatten(1)
            if i == spec.num_layers - 1:
                # Only the rows to sample are looked at from here on.
                x, h = x[rows], h[rows]
            x = x + ops.linear(h, layer["o"], layer.get("o.bias"))
            h = ops.rms_norm(x, layer["mlp_norm"], eps)
            h = ops.linear(h, layer["gate_up"], layer.get("gate_up.bias"))
            h = ops.gated_activation(h, spec.activation)
            x = x + ops.linear(h, layer["down"], layer.get("down.bias"))
        x = ops.rms_norm(x, self._weights["final_norm"], eps)
        return ops.linear(x, self._weights["embedding" if spec.tied_embeddings else "output"])

    def _qkv(
        self, h: torch.Tensor, layer: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries [num_tokens, num_heads, head_dim], keys and values [num_tokens, num_kv_heads, head_dim]."""
        spec, ops = self._spec, self._ops
        heads = ops.linear(h, layer["qkv"], layer.get("qkv.bias")).view(len(h), -1, spec.head_dim)
        q, k, v = torch.split(heads, [spec.num_heads, spec.num_kv_heads, spec.num_kv_heads], dim=1)
        if spec.qk_norm:
            q = ops.rms_norm(q, layer["q_norm"], spec.norm_eps)
            k = ops.rms_norm(k, layer["k_norm"], spec.norm_eps)
        return q, k, v

    def _copy_blocks(self, copies: np.ndarray) -> None:
        if len(copies):
            where = self._tensor(copies)
            for keys, values in self._caches:
                self._ops.copy_blocks(keys, where)
                self._ops.copy_blocks(values, where)

    def _load(self, files: ModelFiles, on_weight: Callable[[str], None]) -> dict[str, torch.Tensor]:
        """Every weight on the device, those that are computed as one in one tensor."""
        shapes = files.spec.weight_shapes()
        groups: dict[str, list[str]] = {}
        for name in shapes:
            groups.setdefault(_packed_name(name), []).append(name)
        packed: dict[str, torch.Tensor] = {}
        parts: dict[str, torch.Tensor] = {}
        for group, names in groups.items():
            sizes = [shapes[name][0] for name in names]
            packed[group] = torch.empty(
                (sum(sizes), *shapes[names[0]][1:]), dtype=self._dtype, device=self._device
            )
            parts.update(zip(names, torch.split(packed[group], sizes), strict=True))
        for weight in files.weights():
            parts[weight.name].copy_(_from_numpy(weight))
            on_weight(weight.name)
        return packed

    def _layer(self, index: int) -> dict[str, torch.Tensor]:
        prefix = f"layers.{index}."
        return {k.removeprefix(prefix): v for k, v in self._weights.items() if k.startswith(prefix)}

    def _rotations(self, max_model_len: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of every position, float32 [max_model_len, 1, rotary_dim / 2]."""
        frequencies, scale = inverse_frequencies(self._spec.rope, max_model_len)
        angles = torch.outer(torch.arange(max_model_len).float(), torch.from_numpy(frequencies))[:, None]
        return (angles.cos() * scale).to(self._device), (angles.sin() * scale).to(self._device)

    def _zeros(self, shape: tuple[int, ...]) -> torch.Tensor:
        if self._device.type != "cpu":
            return torch.zeros(shape, dtype=self._dtype, device=self._device)
        # NumPy's zeros are pages that the kernel gives when they are first written; torch's are written at once,
        # which takes seconds and the memory.
        return torch.from_numpy(np.zeros((*shape, self._dtype.itemsize), np.uint8)).view(self._dtype)[..., 0]

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(self._device)


def _slots(batch: Batch) -> np.ndarray:
    """int64 [num_tokens]: where each token's keys and values go, block * BLOCK_SIZE + offset."""
    owners = np.repeat(np.arange(len(batch.query_lens)), batch.query_lens)
    blocks = batch.block_tables[owners, batch.positions // BLOCK_SIZE].astype(np.int64)
    return blocks * BLOCK_SIZE + batch.positions % BLOCK_SIZE


def _packed_name(name: str) -> str:
    return ".".join(PACKED.get(part, part) for part in name.split("."))


def _from_numpy(weight: Weight) -> torch.Tensor:
    with warnings.catch_warnings():
        # torch warns that it could write to a read-only mapping; it is only read here.
        warnings.simplefilter("ignore", UserWarning)
        tensor = torch.from_numpy(np.ascontiguousarray(weight.data))
    return tensor.view(torch.bfloat16) if weight.dtype == "bfloat16" else tensor


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: must be cpu, cuda, cuda:N or auto (got {name!r})") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device: must be cpu, cuda, cuda:N or auto (got {name!r})")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError(f"device: there are {count} CUDA devices on this machine (got {name!r})")
    return device


def _dtype(config: EngineConfig, files: ModelFiles, device: torch.device) -> torch.dtype:
    if config.dtype != "auto":
        return _torch_dtype(config.dtype)
    if device.type == "cuda":
        return torch.bfloat16 if files.quantized else _torch_dtype(files.dtype)
    # A CPU without bfloat16 instructions is faster in float32, and none is fast in float16.
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    halved = files.quantized or files.dtype == "bfloat16"
    return torch.bfloat16 if halved and fast else torch.float32


def _torch_dtype(name: str) -> torch.dtype:
    dtype: Any = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype
