"""From a configured model to an engine: weights, sizes of the KV pools, what guesses tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.engine.config import BLOCK_SIZE
from octavo.engine.engine import Engine
from octavo.engine.errors import ConfigError
from octavo.engine.info import ModelInfo
from octavo.engine.memory import count_blocks
from octavo.engine.models.spec import DynamicScaling
from octavo.engine.runners.build import build_runner
from octavo.engine.runners.threaded import ThreadedRunner

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo.engine.config import EngineConfig
    from octavo.engine.models.files import ModelFiles


def load_engine(
    files: ModelFiles, config: EngineConfig, on_weight: Callable[[str], None] = lambda name: None
) -> Engine:
    """An engine with weights loaded and KV pool allocated. Raises ConfigError or ModelError."""
    from octavo.engine.speculation import build_speculator

    _check_sizes(config)
    context = _context_length(files, config)
    runner = build_runner(files, config, context, on_weight)
    speculator = build_speculator(config, files, context, on_weight)
    blocks_of_context = -(-context // BLOCK_SIZE)
    num_blocks = count_blocks(
        config.kv_cache_memory,
        free=runner.free_memory(),
        # A draft model's blocks are all on rank 0, and no rank may have more than its share of the memory.
        block_bytes=runner.block_bytes
        + (speculator.block_bytes * config.tensor_parallel_size if speculator is not None else 0),
        max_useful=blocks_of_context * config.max_num_seqs,
        min_needed=blocks_of_context if config.max_model_len else 2,
        device=runner.device,
    )
    runner.allocate(num_blocks)
    if speculator is not None:
        speculator.allocate(num_blocks)
    model = ModelInfo(
        name=files.name,
        family=files.spec.family,
        dtype=runner.dtype,
        device=runner.device,
        vocab_size=files.spec.vocab_size,
        # One sequence must never outgrow the pool: the oldest could not be made room for.
        max_model_len=min(context, num_blocks * BLOCK_SIZE),
        eos_token_ids=files.eos_token_ids,
        block_size=BLOCK_SIZE,
        num_blocks=num_blocks,
        block_bytes=runner.block_bytes,
    )
    overlap = _overlaps(config, runner.device)
    if overlap and runner.device == "cpu":
        runner = ThreadedRunner(runner)
    return Engine(runner, model, config, speculator=speculator, overlap=overlap)


def _overlaps(config: EngineConfig, device: str) -> bool:
    if config.overlap == "auto":
        alone = config.tensor_parallel_size == 1 and config.speculation == "off"
        return alone and device.startswith("cuda")
    return config.overlap == "on"


def _context_length(files: ModelFiles, config: EngineConfig) -> int:
    trained = files.spec.max_position
    extensible = isinstance(files.spec.rope.scaling, DynamicScaling)
    if config.max_model_len and config.max_model_len > trained and not extensible:
        raise ConfigError(
            f"max_model_len: must not exceed the {trained} tokens that {files.name} was made for "
            f"(got {config.max_model_len})"
        )
    return config.max_model_len or trained


def _check_sizes(config: EngineConfig) -> None:
    for name in ("max_num_seqs", "max_waiting", "stream_buffer"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name}: must be at least 1 (got {getattr(config, name)})")
    for name in ("threads", "max_model_len"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name}: must be at least 1 (got {value})")
    if config.overlap == "on" and config.speculation != "off":
        raise ConfigError(
            f"overlap: must be off or auto with speculation, {config.speculation}, which guesses from known "
            f"tokens (got 'on')"
        )
    if config.overlap == "on" and config.tensor_parallel_size > 1:
        raise ConfigError(
            f"overlap: must be off or auto for {config.tensor_parallel_size} ranks, of which only one knows "
            f"the tokens that are drawn (got 'on')"
        )
    if config.max_num_batched_tokens < config.max_num_seqs:
        raise ConfigError(
            f"max_num_batched_tokens: must be at least max_num_seqs, {config.max_num_seqs}, "
            f"so that every decode gets its token (got {config.max_num_batched_tokens})"
        )
    if not config.hold_timeout >= 0:
        raise ConfigError(f"hold_timeout: must not be negative (got {config.hold_timeout})")
