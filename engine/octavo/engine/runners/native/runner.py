"""Weights, KV pool and steps of the native runner."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from octavo.engine.errors import ConfigError
from octavo.engine.memory import available_memory, check_weights_fit
from octavo.engine.models.rope import inverse_frequencies
from octavo.engine.models.shard import Shard
from octavo.engine.parallel.exchange import SLOT_BYTES, given_up, waited_in_vain
from octavo.engine.parallel.group import ALONE
from octavo.engine.runners.drawing import draw
from octavo.engine.runners.native.cache import WeightCache, default_folder
from octavo.engine.runners.native.forms import choose_forms
from octavo.engine.runners.native.layout import matrices
from octavo.engine.runners.native.processors import Processors
from octavo.engine.runners.native.weights import ALIGNMENT, PackedWeights
from octavo.kernels.cpu.library import (
    ACTIVATIONS,
    GIVEN_UP,
    MET,
    POOL_TYPES,
    Form,
    Layer,
    Model,
    Step,
    is_available,
    library,
)
from octavo.kernels.cpu.library import Group as NativeGroup
from octavo.kernels.cpu.sampling import Sampler

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo.engine.batch import Batch, StepOutput
    from octavo.engine.config import EngineConfig
    from octavo.engine.models.files import ModelFiles
    from octavo.engine.models.spec import DecoderSpec
    from octavo.engine.parallel.group import Group

MAX_HEAD_DIM = 256
MAX_GROUP = 96
MAX_INT8_LENGTH = 1 << 17
"""Of a row of weights: sums of as many products of bytes fit in 32 bits."""


def refusal(files: ModelFiles, config: EngineConfig) -> str | None:
    """Why the native runner cannot serve a model so configured; None if it can. Its heads can be shared out
    among the ranks: see `check_divides`."""
    if not is_available():
        return "its kernels were not compiled when Octavo was installed: no C++ compiler was found"
    if config.kernels != "auto":
        return f"it has kernels of its own (got kernels {config.kernels!r})"
    if config.quantization == "fp8":
        return "it has no fp8, which no CPU computes in (got quantization 'fp8')"
    if config.dtype == "float16":
        return "it has no float16, which no CPU computes fast in"
    size = config.tensor_parallel_size
    for rank in range(size):
        reason = _unfit(Shard.of(files.spec, rank, size).spec, config.quantization)
        if reason is not None:
            return reason if size == 1 else f"{reason} on each of {size} ranks"
    return None


def _unfit(spec: DecoderSpec, quantization: str) -> str | None:
    """What of a rank's decoder the kernels have no code for."""
    longest = max(spec.hidden_size, spec.intermediate_size, spec.num_heads * spec.head_dim)
    if quantization == "int8" and longest > MAX_INT8_LENGTH:
        return f"rows of the model's weights, of up to {longest}, are too long for sums of bytes' products"
    for name, size, multiple in (
        ("hidden size", spec.hidden_size, 32),
        ("intermediate size", spec.intermediate_size, 32),
        ("heads' common size", spec.num_heads * spec.head_dim, 32),
        ("head size", spec.head_dim, 16),
    ):
        if size % multiple:
            return f"the model's {name}, {size}, is no multiple of {multiple}"
    if spec.head_dim > MAX_HEAD_DIM:
        return f"the model's head size, {spec.head_dim}, is above {MAX_HEAD_DIM}"
    if spec.num_heads // spec.num_kv_heads > MAX_GROUP:
        return f"more than {MAX_GROUP} of the model's query heads share a key-value head"
    return None


class NativeRunner:
    """See `octavo.engine.runners.Runner`. Serves what `refusal` finds nothing against. Of a group it is one
    rank, and rank 0 alone can `run`.

    Raises ModelError for weights that do not fit.
    """

    device = "cpu"

    def __init__(
        self,
        files: ModelFiles,
        config: EngineConfig,
        max_model_len: int,
        on_weight: Callable[[str], None] = lambda name: None,
        group: Group = ALONE,
    ) -> None:
        self._group = group  # whose memory the decoder writes to
        self._shard = Shard.of(files.spec, group.rank, group.size)
        self._spec = spec = self._shard.spec
        self.dtype = _dtype(files, config)
        form = Form.BF16 if self.dtype == "bfloat16" else Form.F32
        self._pool_type = POOL_TYPES[self.dtype if config.kv_cache_dtype == "auto" else config.kv_cache_dtype]
        self.block_bytes = library().octavo_block_bytes(
            self._pool_type, spec.num_layers, spec.num_kv_heads, spec.head_dim
        )
        processors = Processors.of(group.rank, group.size, config.threads)
        self._pool = library().octavo_pool_new(processors.num_threads, processors.places())
        forms = choose_forms(files, config, matrices(files.spec), form, self._shard)
        self._weights = PackedWeights(self._shard, forms)
        # Rank 0 asks for all, who take it out of the same memory.
        needed = self._weights.num_bytes * (group.size if group.rank == 0 else 1)
        check_weights_fit(files.name, needed, self.free_memory(), self.dtype, self.device)
        with processors.occupied():
            self._weights.use(self._packed(files, config, on_weight))
        self._model = self._describe(spec, max_model_len)
        self._decoder = library().octavo_decoder_new(
            ctypes.byref(self._model), self._pool, self._described_group()
        )
        self._sampler = Sampler(library(), self._pool)

    def __del__(self) -> None:
        for name, free in (("_decoder", "octavo_decoder_free"), ("_pool", "octavo_pool_free")):
            if hasattr(self, name):
                getattr(library(), free)(getattr(self, name))

    def free_memory(self) -> int:
        return available_memory()

    def allocate(self, num_blocks: int) -> None:
        if not library().octavo_decoder_allocate(self._decoder, num_blocks):
            needed = num_blocks * self.block_bytes / 2**30
            raise ConfigError(f"kv_cache_memory: {needed:.1f} GiB could not be allocated")

    def run(self, batch: Batch) -> StepOutput:
        return draw(self.logits(batch), batch, self._sampler.sample, self._sampler.score)

    def logits(self, batch: Batch) -> np.ndarray:
        """All of a step but the sampling: float32 [num_rows + num_scored, vocab_size], valid until the next
        step; on other ranks than 0 of no use. Raises RankLost."""
        rows = np.concatenate([batch.sampling.rows, batch.scoring.rows])
        step = Step(
            num_tokens=len(batch.token_ids),
            num_seqs=len(batch.query_lens),
            max_blocks=batch.block_tables.shape[1],
            num_copies=len(batch.copies),
            num_rows=len(rows),
            token_ids=batch.token_ids.ctypes.data,
            positions=batch.positions.ctypes.data,
            query_lens=batch.query_lens.ctypes.data,
            context_lens=batch.context_lens.ctypes.data,
            block_tables=batch.block_tables.ctypes.data,
            copies=batch.copies.ctypes.data,
            rows=rows.ctypes.data,
        )
        ended = library().octavo_decoder_run(self._decoder, ctypes.byref(step))
        if ended == GIVEN_UP:
            raise given_up()
        if ended != MET:
            raise waited_in_vain(ended, self._patience)
        vocab_size = sum(self._shard.vocabulary)
        if not len(rows) or self._shard.rank > 0:
            return np.empty((0, vocab_size), np.float32)
        values = ctypes.cast(step.logits, ctypes.POINTER(ctypes.c_float))
        found = np.ctypeslib.as_array(values, (len(rows), step.logits_stride))
        return found[:, :vocab_size]

    @property
    def _patience(self) -> float:
        """Seconds, negative for none."""
        exchange = self._group.exchange
        return -1.0 if exchange is None or exchange.patience is None else exchange.patience

    def _described_group(self) -> NativeGroup | None:
        """What the decoder is told of the other ranks."""
        shard, exchange = self._shard, self._group.exchange
        if shard.size == 1:
            return None
        assert exchange is not None
        first_tokens = np.cumsum((0, *shard.vocabulary), dtype=np.int32)
        return NativeGroup(
            rank=shard.rank,
            size=shard.size,
            memory=exchange.address,
            slot_bytes=SLOT_BYTES,
            patience=self._patience,
            first_tokens=(ctypes.c_int32 * len(first_tokens))(*first_tokens.tolist()),
        )

    def _packed(
        self, files: ModelFiles, config: EngineConfig, on_weight: Callable[[str], None]
    ) -> np.ndarray:
        """The weights as the kernels read them: what was kept of an earlier start, or packed anew."""

        def pack(data: np.ndarray) -> None:
            self._weights.fill(data, files, self._pool, on_weight)

        num_bytes = self._weights.num_bytes
        if config.weight_cache != "off":
            folder = Path(config.weight_cache).expanduser() if config.weight_cache else default_folder()
            description = f"{files.spec} {self._weights.forms}"
            if self._shard.size > 1:
                description += f" rank {self._shard.rank} of {self._shard.size}"
            cache = WeightCache(folder, files.stored_in(), description)
            kept = cache.map(num_bytes)
            if kept is None:
                kept = cache.fill(num_bytes, pack)
            if kept is not None:
                # Out of the file's pages of 4 KiB into huge ones, with which a decode takes a fifth less.
                data = _zeros(num_bytes)
                data[:] = kept
                return data
        data = _zeros(num_bytes)
        pack(data)
        return data

    def _describe(self, spec: DecoderSpec, max_model_len: int) -> Model:
        weights = self._weights
        frequencies, rope_scale = inverse_frequencies(spec.rope, max_model_len)
        self._frequencies = np.ascontiguousarray(frequencies, np.float32)
        layers = (Layer * spec.num_layers)()
        for i, layer in enumerate(layers):
            at = f"layers.{i}."
            layer.attention_norm, layer.mlp_norm = (
                weights.address(at + "attention_norm"),
                weights.address(at + "mlp_norm"),
            )
            layer.query_norm, layer.key_norm = weights.address(at + "q_norm"), weights.address(at + "k_norm")
            layer.qkv, layer.o = weights.linear(at + "qkv"), weights.linear(at + "o")
            layer.gate_up, layer.down = weights.linear(at + "gate_up"), weights.linear(at + "down")
            layer.window = spec.sliding_window(i) or 0
        self._layers = layers
        return Model(
            hidden_size=spec.hidden_size,
            intermediate_size=spec.intermediate_size,
            num_layers=spec.num_layers,
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            rotary_dim=spec.rope.rotary_dim,
            vocab_size=spec.vocab_size,
            activation=ACTIVATIONS[spec.activation],
            pool_type=self._pool_type,
            norm_eps=spec.norm_eps,
            rope_scale=rope_scale,
            frequencies=self._frequencies.ctypes.data,
            final_norm=weights.address("final_norm"),
            embedding=weights.linear("embedding"),
            output=weights.linear("embedding" if spec.tied_embeddings else "output"),
            layers=layers,
        )


def _dtype(files: ModelFiles, config: EngineConfig) -> str:
    if config.dtype != "auto":
        return config.dtype
    # With the instructions that every processor has, a prompt takes a quarter longer than in float32.
    fast = library().octavo_isa() != b"generic"
    return "bfloat16" if fast and (files.quantized or files.dtype != "float32") else "float32"


def _zeros(num_bytes: int) -> np.ndarray:
    """uint8 [num_bytes], at the start of a cache line; pages come when they are first written."""
    data = np.zeros(num_bytes + ALIGNMENT, np.uint8)
    start = -data.ctypes.data % ALIGNMENT
    return data[start : start + num_bytes]
