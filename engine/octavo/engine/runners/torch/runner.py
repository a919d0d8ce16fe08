"""Device, types, KV pool and steps of the torch runner."""

from __future__ import annotations

import ctypes
import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from octavo.engine.config import BLOCK_SIZE
from octavo.engine.errors import ConfigError
from octavo.engine.memory import available_cpus, available_memory, check_weights_fit
from octavo.engine.models.shard import Shard
from octavo.engine.parallel.group import ALONE
from octavo.engine.runners.drawing import draw
from octavo.engine.runners.torch.collectives import join
from octavo.engine.runners.torch.decoder import Cache, Caches, Decoder, Step
from octavo.engine.runners.torch.device_memory import (
    CudaMemory,
    decode_of,
    largest_batch,
    measure,
    weights_do_not_fit,
)
from octavo.engine.runners.torch.graphs import Graphs, Shapes, choose_capture
from octavo.engine.runners.torch.kernels import choose_kernels
from octavo.engine.runners.torch.linears import choose_linears
from octavo.engine.runners.torch.staging import Results, Staging
from octavo.engine.runners.torch.weights import load_weights
from octavo.kernels.cache import Int8Cache

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo.engine.batch import Batch, StepOutput
    from octavo.engine.config import EngineConfig
    from octavo.engine.models.files import ModelFiles
    from octavo.engine.parallel.group import Group
    from octavo.engine.runners import Submitted
    from octavo.engine.runners.torch.device_memory import DeviceMemory
    from octavo.engine.runners.torch.graphs import Capture
    from octavo.engine.runners.torch.linears import Linears


class TorchRunner:
    """See `octavo.engine.runners.Runner`. Of a group it is one rank, and rank 0 alone can `run`.

    Raises ConfigError for a device that cannot be had, ModelError for weights that do not fit on it.
    """

    def __init__(
        self,
        files: ModelFiles,
        config: EngineConfig,
        max_model_len: int,
        on_weight: Callable[[str], None] = lambda name: None,
        group: Group = ALONE,
        memory: DeviceMemory | None = None,
        capture: Capture | None = None,
    ) -> None:
        """memory: of the device; that of this machine's if unset. capture: what makes graphs of steps; what
        `config.cuda_graphs` asks for if unset."""
        self._shard = Shard.of(files.spec, group.rank, group.size)
        self._spec = spec = self._shard.spec
        self._device = _device(config.device, group)
        self._dtype = _dtype(config, files, self._device)
        self.device, self.dtype = str(self._device), str(self._dtype).removeprefix("torch.")
        self._int8_cache = config.kv_cache_dtype == "int8"
        self.block_bytes = BLOCK_SIZE * spec.kv_elements_per_token * self._dtype.itemsize
        if self._int8_cache:
            num_scales = spec.kv_elements_per_token // spec.head_dim
            self.block_bytes = BLOCK_SIZE * (spec.kv_elements_per_token + 4 * num_scales)
        self._ops = choose_kernels(config, spec, self._device)
        if memory is None and self._device.type == "cuda":
            memory = CudaMemory(self._device)
        self._memory = memory
        self._capture = capture or choose_capture(config, self._device, self._ops)
        self._shapes = Shapes(config.max_num_seqs, max_model_len)
        self._graphs: Graphs | None = None
        self._activations = 0
        self._caches: Caches = []
        self._staging = Staging(self._device)
        self._drawn: Any = None  # of the last step, int32 on the device
        linears = choose_linears(self._ops, config.quantization, spec)
        needed = self._weight_bytes(linears)
        check_weights_fit(files.name, needed, self.free_memory(), self.dtype, self.device)
        if self._device.type == "cpu":
            _keep_freed_memory()
        # Loaders dequantise in threads of their own; torch's would stand in their way. And OpenMP makes a
        # pool for each thread that computes in parallel: were this one not the one that steps, there would be
        # two, more threads than processors, and OpenMP would put them to sleep between any two ops (17
        # tokens/s instead of 31).
        torch.set_num_threads(1)
        try:
            with torch.inference_mode():
                weights = load_weights(files, self._shard, self._dtype, self._device, linears.pack, on_weight)
        except torch.OutOfMemoryError as error:
            raise weights_do_not_fit(files.name, needed, self.free_memory(), self.device) from error
        collectives = join(group, self._device)
        with torch.inference_mode():
            self._decoder = Decoder(self._shard, weights, self._ops, linears, collectives, max_model_len)
        torch.set_num_threads(config.threads or max(available_cpus() // group.size, 1))
        if memory is not None:
            self._activations = self._dry_run(config, max_model_len, memory, needed)

    def free_memory(self) -> int:
        free = available_memory() if self._memory is None else self._memory.free()
        return free - self._activations

    def _dry_run(self, config: EngineConfig, max_model_len: int, memory: DeviceMemory, weights: int) -> int:
        """Bytes that the largest step takes beside weights and pool: it is computed, on a pool of a block.
        With graphs also those of the largest decode, and of all graphs' logits, which are not given back."""
        batch = largest_batch(config, max_model_len)
        compute = self.run if self._shard.rank == 0 else self.logits
        self._make_caches(1)
        try:
            taken = measure(lambda: compute(batch), memory, config, weights, self.device)
            if self._capture is not None:
                decode = decode_of(largest_batch(config, 1), max_model_len)
                taken += measure(lambda: self.logits(decode), memory, config, weights, self.device)
                taken += config.max_num_seqs * sum(self._shard.vocabulary) * self._dtype.itemsize
            return taken
        finally:
            self._caches = []

    def _weight_bytes(self, linears: Linears) -> int:
        """Of what is loaded into the memory that rank 0 asks for: all ranks share a CPU's."""
        shapes = self._spec.weight_shapes().items()
        total = sum(
            math.prod(shape) * linears.bytes_each(name, self._dtype.itemsize) for name, shape in shapes
        )
        shares = self._shard.size if self._device.type == "cpu" and self._shard.rank == 0 else 1
        return int(total) * shares

    def allocate(self, num_blocks: int) -> None:
        if self._capture is None:
            self._make_caches(num_blocks)
            return
        self._make_caches(num_blocks + 1)  # the last one is of sequences that fill a graph's step
        self._graphs = Graphs(
            self._capture,
            self._shapes,
            self._staging,
            spare_block=num_blocks,
            prepare=self._step,
            compute=lambda step: self._decoder.logits(step, self._caches),
            known=self._known,
        )

    def _make_caches(self, num_blocks: int) -> None:
        spec = self._spec
        shape = (num_blocks, spec.num_kv_heads, BLOCK_SIZE, spec.head_dim)
        # Zeros, not garbage: padding is masked after the product, and a NaN survives any mask.
        try:
            self._caches = [(self._cache(shape), self._cache(shape)) for _ in range(spec.num_layers)]
        except (RuntimeError, MemoryError) as error:
            needed = num_blocks * self.block_bytes / 2**30
            raise ConfigError(f"kv_cache_memory: {needed:.1f} GiB could not be allocated: {error}") from error

    def run(self, batch: Batch) -> StepOutput:
        return self.submit(batch).result()

    @torch.inference_mode()
    def submit(self, batch: Batch) -> Submitted:
        """On a GPU this returns once the step is launched, if the kernels are Triton's: the reference's look
        at results in between."""
        put = self._staging.put_and_send
        output = draw(
            self.logits(batch), batch, partial(self._ops.sample, put=put), partial(self._ops.score, put=put)
        )
        self._drawn = output.token_ids
        return Results(output)

    @torch.inference_mode()
    def logits(self, batch: Batch) -> torch.Tensor:
        """All of a step but the sampling: [num_rows + num_scored, vocab_size], as the model has them.
        With graphs the next step overwrites them."""
        if self._device.type == "cuda" and self._device.index is not None:
            torch.cuda.set_device(self._device)  # this thread's; Triton launches there, whatever it is given
        staging = self._staging
        staging.begin()
        if len(batch.copies):
            copies = staging.put_and_send(batch.copies.astype(np.int64))
            for caches in self._caches:
                for cache in caches:
                    self._ops.copy_blocks(cache, copies)
        if self._graphs is not None and (shape := self._graphs.shape_of(batch)) is not None:
            return self._graphs.logits(batch, shape)
        rows = np.concatenate([batch.sampling.rows, batch.scoring.rows])
        step = self._step(batch, rows, staging.put)
        staging.send()
        if (batch.token_ids < 0).any():
            step = replace(step, token_ids=self._known(step.token_ids))
        return self._decoder.logits(step, self._caches)

    def _step(
        self,
        batch: Batch,
        rows: np.ndarray,
        put: Callable[[np.ndarray], torch.Tensor],
        longest_context: int | None = None,
    ) -> Step:
        """What the decoder reads, once `put` has sent it. rows: the tokens whose logits are wanted."""
        attention = self._ops.plan_attention(
            batch.query_lens,
            batch.context_lens,
            batch.positions,
            batch.block_tables,
            BLOCK_SIZE,
            self._spec.num_kv_heads,
            like=self._decoder.embedding,
            put=put,
            longest_context=longest_context,
        )
        return Step(
            token_ids=put(batch.token_ids.astype(np.int64)),
            positions=put(batch.positions.astype(np.int64)),
            rows=put(rows.astype(np.int64)),
            attention=attention,
        )

    def _known(self, token_ids: torch.Tensor) -> torch.Tensor:
        """The tokens of a batch of which some were `drawn` by the step before, on the device."""
        drawn: torch.Tensor = self._drawn[(-1 - token_ids).clamp(min=0)]
        return torch.where(token_ids < 0, drawn.to(token_ids.dtype), token_ids)

    def _cache(self, shape: tuple[int, ...]) -> Cache:
        if self._int8_cache:
            return Int8Cache(self._zeros(shape, torch.int8), self._zeros(shape[:-1], torch.float32))
        return self._zeros(shape, self._dtype)

    def _zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if self._device.type != "cpu":
            return torch.zeros(shape, dtype=dtype, device=self._device)
        # NumPy's zeros are pages that the kernel gives when they are first written; torch's are written at
        # once, which takes seconds and the memory.
        return torch.from_numpy(np.zeros((*shape, dtype.itemsize), np.uint8)).view(dtype)[..., 0]


def _keep_freed_memory() -> None:
    """Has glibc keep what a step frees for the next one, instead of giving it back to the kernel.

    Every step allocates and frees the same megabytes. By default the kernel takes and zeroes those pages each
    time, which takes ten times as long as what is computed in them: 1.4 ms instead of 0.1 ms for a norm of
    512 rows. See mallopt(3); other C libraries have no such function, and need none.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 1 << 30)
        mallopt(top_pad, 64 << 20)


def _device(name: str, group: Group) -> torch.device:
    """Each rank of several has a GPU of its own, by its number."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and group.size > 1:
        count = torch.cuda.device_count()
        if count < group.size:
            raise ConfigError(
                f"tensor_parallel_size: must not exceed the {count} CUDA devices of this machine "
                f"(got {group.size})"
            )
        torch.cuda.set_device(group.rank)  # where kernels are launched that are given no device
        return torch.device("cuda", group.rank)
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
