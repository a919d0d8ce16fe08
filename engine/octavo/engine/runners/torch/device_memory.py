"""What a step takes of a device's memory beside weights and KV pool: measured, not estimated.

The largest step that the settings allow is computed once, before the pool is made, and the allocator tells
how much it had out at most.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from octavo.engine.batch import Batch, SamplingBatch
from octavo.engine.config import BLOCK_SIZE
from octavo.engine.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo.engine.config import EngineConfig

GIB = 2**30


class DeviceMemory(Protocol):
    """What an allocator and its device tell, in bytes."""

    def free(self) -> int:
        """That can be allocated: unused on the device, or kept by the allocator for the next who asks."""
        ...

    def start(self) -> None:
        """`peak` counts from here."""
        ...

    def peak(self) -> int:
        """The most that was allocated at once since `start`, beside what was allocated then."""
        ...


class CudaMemory:
    """See `DeviceMemory`: of a GPU and PyTorch's allocator."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._at_start = 0

    def free(self) -> int:
        kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return torch.cuda.mem_get_info(self._device)[0] + kept

    def start(self) -> None:
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self._at_start = torch.cuda.memory_allocated(self._device)

    def peak(self) -> int:
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device) - self._at_start


def measure(
    step: Callable[[], Any], memory: DeviceMemory, config: EngineConfig, weights: int, device: str
) -> int:
    """Bytes that the largest step takes. Raises ConfigError if it does not fit beside the weights.

    step: computes it. weights: bytes on the device.
    """
    free = memory.free()
    memory.start()
    try:
        step()
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"max_num_batched_tokens, max_num_seqs: a step of {config.max_num_batched_tokens} tokens and "
            f"{config.max_num_seqs} rows of logits must fit beside the weights, {weights / GIB:.2f} GiB; "
            f"{free / GIB:.2f} GiB are free on {device}: lower one or both"
        ) from error
    taken = memory.peak()
    if taken >= free:
        raise ConfigError(
            f"max_num_batched_tokens, max_num_seqs: a step of {config.max_num_batched_tokens} tokens and "
            f"{config.max_num_seqs} rows of logits takes {taken / GIB:.2f} GiB and leaves nothing for keys "
            f"and values: {free / GIB:.2f} GiB are free on {device} beside the weights, "
            f"{weights / GIB:.2f} GiB; lower one or both"
        )
    return taken


def weights_do_not_fit(model: str, needed: int, free: int, device: str) -> ModelError:
    return ModelError(
        f"{model}: {device} ran out of memory while the weights were loaded: they take "
        f"{needed / GIB:.2f} GiB, and {free / GIB:.2f} GiB are left"
    )


def largest_batch(config: EngineConfig, max_model_len: int) -> Batch:
    """As many tokens and rows as a step may have, drawn in the way that takes the most memory.

    All sequences have their tokens in block 0: what they compute means nothing.
    """
    lengths: list[int] = []
    left = config.max_num_batched_tokens
    for sequence in range(config.max_num_seqs):
        others = config.max_num_seqs - sequence - 1
        lengths.append(min(left - others, max_model_len))
        left -= lengths[-1]
    query_lens = np.array(lengths, np.int32)
    ends = np.cumsum(query_lens, dtype=np.int32)
    count = len(lengths)
    ints, ones, none = np.zeros(count, np.int32), np.ones(count, np.float32), np.empty(0, np.int32)
    return Batch(
        token_ids=np.zeros(ends[-1], np.int32),
        positions=np.arange(ends[-1], dtype=np.int32) - np.repeat(ends - query_lens, query_lens),
        query_lens=query_lens,
        context_lens=query_lens,
        block_tables=np.zeros((count, -(-max(lengths) // BLOCK_SIZE)), np.int32),
        copies=np.empty((0, 2), np.int32),
        sampling=SamplingBatch(
            rows=ends - 1,
            temperature=ones,
            top_k=ints + 2,
            top_p=ones * np.float32(0.5),
            min_p=ones * np.float32(0.1),
            seeds=np.zeros(count, np.uint64),
            draws=np.zeros(count, np.int64),
            repetition=ones + ones,
            frequency=ones,
            presence=ones,
            seen_rows=ints,
            seen_tokens=ints,
            seen_counts=ones,
            bias_rows=none,
            bias_tokens=none,
            bias_values=np.empty(0, np.float32),
            logprobs=ints + 1,
            candidates=ints,
        ),
    )


def decode_of(batch: Batch, context: int) -> Batch:
    """The same of sequences whose last tokens these are, a token each, of contexts as long as may be."""
    count = len(batch.query_lens)
    assert len(batch.token_ids) == count
    return replace(
        batch,
        positions=np.full(count, context - 1, np.int32),
        context_lens=np.full(count, context, np.int32),
        block_tables=np.zeros((count, -(-context // BLOCK_SIZE)), np.int32),
    )
