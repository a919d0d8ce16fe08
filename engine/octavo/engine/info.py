"""What an engine tells about itself: once (the model) and continuously (its load)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """The model that an engine serves, and how."""

    name: str
    family: str
    dtype: str
    device: str
    vocab_size: int
    max_model_len: int
    """Longest sequence in tokens, prompt and output together."""
    eos_token_ids: tuple[int, ...]
    block_size: int
    """Tokens per KV block."""
    num_blocks: int
    block_bytes: int
    """Bytes of one block: keys and values of all layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """A moment's load. KV utilisation is held ÷ total: cached blocks count as free, they can be evicted."""

    total_blocks: int
    held_blocks: int
    """Blocks that live sequences, and finished ones kept for a continuation, refer to."""
    cached_blocks: int
    """Blocks that nothing refers to but that a prompt may find again."""
    running: int
    """Sequences in the running batch, those paused by a slow reader included."""
    waiting: int
    """Sequences in the queue, preempted ones included."""
    waiting_tokens: int
    """Tokens that the waiting sequences still have to compute."""
    prefill_tokens: int
    """Prompt tokens of running sequences that are still to be computed."""
    max_num_seqs: int
    """Most sequences that one step computes."""
    output_tokens_per_second: float
    """Tokens generated per second, averaged over the last few seconds."""
    total_output_tokens: int
    """Tokens generated since start."""
    preemptions: int
    """Sequences preempted since start."""
    total_requests: int
    """Requests queued since start. Those that have not ended are running or waiting."""
    total_finished_requests: int
    """Requests that have ended since start, in whatever way."""
    total_prompt_tokens: int
    """Tokens of the prompts of total_requests."""
    total_cached_prompt_tokens: int
    """Tokens of prompts that were found in the cache instead of being computed, since start."""
    draining: bool
