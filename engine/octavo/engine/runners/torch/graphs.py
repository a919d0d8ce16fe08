"""Decode steps as CUDA graphs: what a step launches is recorded once, and launched at once from then on.

A graph repeats its launches with the sizes, places and numbers that they had, so all that differs from step
to step is in one piece of memory on the device, and a step is padded to a size of which there are few.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from octavo.engine.config import BLOCK_SIZE
from octavo.engine.errors import ConfigError
from octavo.kernels import reference
from octavo.kernels.reference.end_to_end import Views

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from octavo.engine.batch import Batch
    from octavo.engine.config import EngineConfig
    from octavo.engine.runners.torch.decoder import Step
    from octavo.engine.runners.torch.staging import Staging

log = logging.getLogger("octavo")

LEAST_CONTEXT = 1024


class Capture(Protocol):
    def __call__(self, launches: Callable[[], object]) -> Callable[[], object]:
        """Records what `launches` launches, without computing it; the result launches the same again."""
        ...


class CudaCapture:
    """See `Capture`. All graphs have what they compute in between in the same memory: one runs at a time."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, launches: Callable[[], object]) -> Callable[[], object]:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            launches()
        replay: Callable[[], object] = graph.replay
        return replay


def choose_capture(config: EngineConfig, device: torch.device, kernels: Any) -> Capture | None:
    """What captures the steps of a runner; None if they are launched one by one. Raises ConfigError where
    graphs are asked for and cannot be had."""
    reason = None
    if device.type != "cuda":
        reason = f"on {device.type}"
    elif kernels is reference:
        reason = "with PyTorch's own kernels, which look at results in between"
    elif config.tensor_parallel_size > 1:
        reason = f"for {config.tensor_parallel_size} ranks, which would have to capture together"
    if config.cuda_graphs == "on" and reason is not None:
        raise ConfigError(f"cuda_graphs: must be off or auto {reason} (got 'on')")
    return CudaCapture() if config.cuda_graphs != "off" and reason is None else None


@dataclass(frozen=True, slots=True)
class Shape:
    """What a graph is made for: so many sequences of a token each, none of which has a longer context."""

    num_seqs: int
    context: int


class Shapes:
    """Of which there are few: up to four sizes to each doubling of the sequences, and contexts of four times
    the last."""

    def __init__(self, max_num_seqs: int, max_model_len: int) -> None:
        sizes = [size for size in (1, 2, 4) if size < max_num_seqs]
        size = 8
        while size < max_num_seqs:
            sizes.append(size)
            size += max(8, 1 << size.bit_length() - 3)
        self.sizes = [*sizes, max_num_seqs]
        context, self.contexts = LEAST_CONTEXT, list[int]()
        while context < max_model_len:
            self.contexts.append(context)
            context *= 4
        self.contexts.append(max_model_len)

    def of(self, batch: Batch) -> Shape | None:
        """None for a step that is no decode of a token for every sequence: prompts and their
        log-probabilities, guesses to verify."""
        num_seqs = len(batch.query_lens)
        rows = batch.sampling.rows
        if len(batch.token_ids) != num_seqs or len(batch.scoring) or len(rows) != num_seqs:
            return None
        if num_seqs > self.sizes[-1] or (rows != np.arange(num_seqs)).any():
            return None
        context = int(batch.context_lens.max())
        if context > self.contexts[-1]:
            return None
        return Shape(
            self.sizes[bisect_left(self.sizes, num_seqs)],
            self.contexts[bisect_left(self.contexts, context)],
        )


def padded(batch: Batch, shape: Shape, spare_block: int) -> Batch:
    """The batch with sequences of one token in the spare block, as many as the shape has more; and with block
    tables for the shape's context."""
    more = shape.num_seqs - len(batch.query_lens)
    tables = np.full((shape.num_seqs, -(-shape.context // BLOCK_SIZE)), spare_block, np.int32)
    width = min(tables.shape[1], batch.block_tables.shape[1])
    tables[: len(batch.query_lens), :width] = batch.block_tables[:, :width]
    zeros, ones = np.zeros(more, np.int32), np.ones(more, np.int32)
    return replace(
        batch,
        token_ids=np.concatenate([batch.token_ids, zeros]),
        positions=np.concatenate([batch.positions, zeros]),
        query_lens=np.concatenate([batch.query_lens, ones]),
        context_lens=np.concatenate([batch.context_lens, ones]),
        block_tables=tables,
    )


@dataclass(frozen=True, slots=True)
class Graph:
    """inputs: uint8, what the launches read; step: views of it. launch: does them all."""

    inputs: Tensor
    step: Step
    launch: Callable[[], object]


class Graphs:
    """The graphs of one runner, each captured when its shape is met first."""

    def __init__(
        self,
        capture: Capture,
        shapes: Shapes,
        staging: Staging,
        spare_block: int,
        prepare: Callable[[Batch, np.ndarray, Callable[[np.ndarray], Tensor], int], Step],
        compute: Callable[[Step], Tensor],
        known: Callable[[Tensor], Tensor],
    ) -> None:
        """prepare: a step of a batch, the rows whose logits are wanted, what takes arrays to the device, and
        the longest context. compute: its logits. known: token ids, with those that were `drawn` in place."""
        self._capture: Capture | None = capture
        self._shapes = shapes
        self._staging = staging
        self._spare_block = spare_block
        self._prepare, self._compute, self._known = prepare, compute, known
        self._graphs: dict[Shape, Graph] = {}
        self._logits: Tensor | None = None

    def shape_of(self, batch: Batch) -> Shape | None:
        """None for a step that has to be launched one by one."""
        return None if self._capture is None else self._shapes.of(batch)

    def logits(self, batch: Batch, shape: Shape) -> Tensor:
        """[num_seqs, vocab_size], which the next step overwrites."""
        num_seqs = len(batch.query_lens)
        batch = padded(batch, shape, self._spare_block)
        rows = np.arange(shape.num_seqs)
        arrays: list[np.ndarray] = []

        def collect(array: np.ndarray) -> Tensor:
            arrays.append(array)
            return torch.from_numpy(array)

        self._prepare(batch, rows, collect, shape.context)
        staged = self._staging.put_together(arrays)
        self._staging.send()
        graph = self._graphs.get(shape)
        inputs = torch.empty_like(staged) if graph is None else graph.inputs
        inputs.copy_(staged)
        step = self._prepare(batch, rows, Views(inputs), shape.context) if graph is None else graph.step
        if (batch.token_ids < 0).any():
            step.token_ids.copy_(self._known(step.token_ids))
        if graph is None:
            logits = self._compute(step)  # and compiles what is launched first
            self._record(shape, inputs, step, logits)
            return logits[:num_seqs]
        graph.launch()
        assert self._logits is not None
        return self._logits[:num_seqs]

    def _record(self, shape: Shape, inputs: Tensor, step: Step, logits: Tensor) -> None:
        assert self._capture is not None
        try:
            if self._logits is None:
                self._logits = logits.new_empty(self._shapes.sizes[-1], logits.shape[1])
            out = self._logits[: shape.num_seqs]
            launch = self._capture(lambda: out.copy_(self._compute(step)))
        except torch.OutOfMemoryError:
            log.warning(
                "no memory is left for the CUDA graph of %d sequences: steps are launched one by one from "
                "here on; a smaller kv_cache_memory would leave some",
                shape.num_seqs,
            )
            self._capture = None
            self._graphs.clear()
            return
        self._graphs[shape] = Graph(inputs, step, launch)
