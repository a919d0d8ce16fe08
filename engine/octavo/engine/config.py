"""What an engine is told at start. The service derives flags, environment and file keys from these fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

DType = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["auto", "none", "int8", "int4", "fp8"]
KVCacheType = Literal["auto", "int8"]
RunnerName = Literal["auto", "native", "torch"]
KernelsName = Literal["auto", "reference", "triton"]
Overlap = Literal["auto", "on", "off"]
CudaGraphs = Literal["auto", "on", "off"]
Speculation = Literal["off", "ngram", "draft"]

BLOCK_SIZE = 16
"""Tokens per KV block, in every runner and on the wire."""


def option(default: Any, text: str) -> Any:
    """A configuration field with the sentence that `--help` and the documentation show for it."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Settings of one engine. Sizes in tokens, blocks or bytes as each field says."""

    model: str = option("", "Model to serve: a folder, a .gguf file, or a Hugging Face id such as org/name.")
    revision: str | None = option(
        None, "Branch, tag or commit of a Hugging Face id; the default branch if unset."
    )
    device: str = option("auto", "Where to compute: cpu, cuda, cuda:N, or auto (a GPU where there is one).")
    dtype: DType = option(
        "auto",
        "Type of KV cache, and of weights that are not quantised; auto takes the checkpoint's, bfloat16 for "
        "a quantised one, and float32 where a CPU is not fast in these.",
    )
    quantization: Quantization = option(
        "auto",
        "Bits of the weights: int8, int4 (in groups of 32), fp8 (by the torch runner), none for those of "
        "dtype, or auto: on a CPU as the checkpoint has them, unless dtype is set, and elsewhere none.",
    )
    kv_cache_dtype: KVCacheType = option(
        "auto",
        "Type of keys and values: int8 has room for nearly twice as many tokens; auto is that of dtype.",
    )
    runner: RunnerName = option(
        "auto",
        "What computes: native (our C++ kernels, CPU only), torch (PyTorch, any device), or auto: native on "
        "a CPU where it can serve the model.",
    )
    tensor_parallel_size: int = option(
        1,
        "Ranks that compute each layer together: one process each, on a GPU each where there are GPUs. Must "
        "divide the model's query heads.",
    )
    kernels: KernelsName = option(
        "auto",
        "What the torch runner computes with: triton (kernels for GPUs; on a CPU in Triton's interpreter "
        "only), reference (PyTorch's own), or auto: triton on a GPU.",
    )
    weight_cache: str | None = option(
        None,
        "Folder for weights packed for the native runner, so that the next start reads them; off for none, "
        "and ~/.cache/octavo/weights if unset.",
    )
    threads: int | None = option(
        None,
        "CPU threads that each rank computes with; if unset, the ranks share as many as the process may use.",
    )
    max_model_len: int | None = option(
        None,
        "Longest sequence, prompt and output together, in tokens; the model's own context length if unset.",
    )
    max_num_seqs: int = option(64, "Most sequences computed in one step.")
    max_num_batched_tokens: int = option(
        512, "Token budget of one step, shared by prefill chunks and decodes."
    )
    max_waiting: int = option(
        256, "Most requests that may wait; one more is refused with RESOURCE_EXHAUSTED."
    )
    kv_cache_memory: str | None = option(
        None,
        "Memory for KV blocks, of all ranks together: bytes (with K, M, G, Ki, Mi, Gi) or a share of the "
        "free memory as in 50%; if unset, 30% on a CPU and 90% on a GPU, and no more than max_num_seqs could "
        "use.",
    )
    prefix_caching: bool = option(True, "Share blocks between requests whose prompts start alike.")
    speculation: Speculation = option(
        "off",
        "Guess tokens and verify several in one step; outputs stay the same. ngram guesses what followed the "
        "last tokens earlier in the sequence, draft asks a smaller model. It rests while guesses do not pay.",
    )
    draft_model: str | None = option(
        None, "Model that guesses for speculation=draft; as model, and with the same vocabulary."
    )
    num_speculative_tokens: int = option(8, "Most tokens that are guessed for a sequence in one step.")
    overlap: Overlap = option(
        "auto",
        "Prepare the next step while one is computed; outputs stay the same. auto: on one GPU, without "
        "speculation.",
    )
    cuda_graphs: CudaGraphs = option(
        "auto",
        "Launch a decode step at once, as a CUDA graph for its number of sequences, rounded up. auto: on one "
        "GPU, with Triton's kernels.",
    )
    stream_buffer: int = option(
        64, "Output tokens that may wait for a slow reader; then its sequence pauses."
    )
    hold_timeout: float = option(
        300.0,
        "Seconds for which the KV blocks of a finished request with hold=true are kept for a continuation.",
    )
