"""One token for every row. Contracts: `octavo.kernels.ops.Ops`; kernels: `choice.py`."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import triton

from octavo.kernels.reference.end_to_end import Views, lay, total_bytes
from octavo.kernels.reference.sampling import Put, Sampled, adjust, likeliest, putting, score
from octavo.kernels.triton import choice
from octavo.kernels.triton.registry import FLOATS, Tile, Variant, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from octavo.kernels.triton.registry import Call

__all__ = ["sample", "score", "variants", "workloads"]

SURVEY = Tile({"CHUNK": 1024})
FRONT = 16
"""Tokens of each chunk that are put together if there are no more of them above what every cut drops."""


def sample(logits: Tensor, sampling: Any, put: Put | None = None) -> Sampled:
    tensor = put or putting(logits)
    reported = torch.log_softmax(logits.float(), -1) if (sampling.logprobs >= 0).any() else None
    token_ids, scaled = choose(adjust(logits, sampling, tensor), sampling, tensor)
    searched = int(sampling.candidates.max(initial=0))
    best = likeliest(scaled, searched) if searched else (None, None)
    if reported is None:
        return token_ids, None, None, None, *best
    chosen_logprobs = reported.gather(-1, token_ids[:, None].long())[:, 0]
    return token_ids, chosen_logprobs, *likeliest(reported, int(sampling.logprobs.max())), *best


def choose(logits: Tensor, sampling: Any, tensor: Put) -> tuple[Tensor, Tensor]:
    """logits: [num_rows, vocab_size], after penalties and biases → the tokens, int32 [num_rows], and the
    logits after masks and temperature, float32. Rows of a beam search are only masked. tensor: takes an array
    to the device."""
    num_rows, vocab_size = logits.shape
    device = logits.device
    assert logits.stride(1) == 1, "a row's elements lie side by side"

    token_ids = torch.empty(num_rows, dtype=torch.int32, device=device)
    scaled = torch.empty((num_rows, vocab_size), dtype=torch.float32, device=device)
    if not num_rows:
        return token_ids, scaled

    temperature = np.where(sampling.candidates > 0, np.float32(0), sampling.temperature)
    log_min_p = torch.from_numpy(sampling.min_p).log().numpy()
    arrays = (
        np.stack([sampling.seeds.view(np.int64), sampling.draws]),
        np.stack([temperature, sampling.top_p, log_min_p]),
        sampling.top_k,
    )
    piece = np.empty(total_bytes(arrays), np.uint8)
    lay(arrays, piece)
    keys, floats, top_k = map(Views(tensor(piece)), arrays)

    chunk = SURVEY.constants["CHUNK"]
    num_chunks = triton.cdiv(vocab_size, chunk)
    peaks = torch.empty((num_rows, num_chunks), dtype=torch.float32, device=device)
    least, weights = torch.empty_like(peaks), torch.empty_like(peaks)
    peak_tokens = torch.empty((num_rows, num_chunks), dtype=torch.int32, device=device)
    counts = torch.empty_like(peak_tokens)
    fronts = torch.empty((num_rows, num_chunks, FRONT), dtype=torch.float32, device=device)
    tokens = torch.empty(fronts.shape, dtype=torch.int32, device=device)

    masked = len(sampling.mask_rows) > 0
    mask_rows, masks = top_k, top_k
    if masked:
        of_rows = np.full(num_rows, -1, np.int32)
        of_rows[sampling.mask_rows] = np.arange(len(sampling.mask_rows))
        # The masks are asked for last: this may wait.
        mask_rows, masks = tensor(of_rows), tensor(sampling.masks().view(np.int32))
    choice.survey_kernel[(num_chunks, num_rows)](
        logits, scaled, peaks, peak_tokens, least, weights, floats, mask_rows, masks,
        vocab_size, logits.stride(0), masks.shape[-1], MASKED=masked, **SURVEY.launch(),
    )  # fmt: skip
    if (temperature > 0).any():
        choice.collect_kernel[(num_chunks, num_rows)](
            scaled, peaks, weights, floats, top_k, counts, fronts, tokens, vocab_size, num_chunks,
            **collecting(vocab_size).launch(),
        )  # fmt: skip
    choice.choose_kernel[(num_rows,)](
        scaled, peaks, peak_tokens, least, weights, counts, fronts, tokens, floats, top_k, keys, token_ids,
        vocab_size, num_chunks, **choosing(vocab_size).launch(),
    )  # fmt: skip
    return token_ids, scaled


def collecting(vocab_size: int) -> Tile:
    return Tile({"PEAKS": _peaks(vocab_size), **SURVEY.constants, "FRONT": FRONT})


def choosing(vocab_size: int) -> Tile:
    block = min(4096, max(64, triton.next_power_of_2(vocab_size)))
    warps = 16 if block == 4096 else 4
    return Tile({"PEAKS": _peaks(vocab_size), "FRONT": FRONT, "BLOCK": block}, warps)


def _peaks(vocab_size: int) -> int:
    return max(16, int(triton.next_power_of_2(triton.cdiv(vocab_size, SURVEY.constants["CHUNK"]))))


def variants() -> Iterator[Variant]:
    for dtype, masked in product(FLOATS, (False, True)):
        yield Variant(
            kernel=choice.survey_kernel,
            dtype=dtype,
            tile=SURVEY,
            arguments={
                "logits_ptr": f"*{dtype}:16",
                "scaled_ptr": "*fp32:16",
                "peaks_ptr": "*fp32:16",
                "peak_tokens_ptr": "*i32:16",
                "least_ptr": "*fp32:16",
                "weights_ptr": "*fp32:16",
                "floats_ptr": "*fp32:16",
                "mask_rows_ptr": "*i32:16",
                "masks_ptr": "*i32:16",
                "vocab_size": "i32:16",
                "stride": "i32:16",
                "mask_words": "i32",
            },
            constants={"MASKED": masked},
        )
    for vocab_size in (512, 32_000, 49_152, 128_256, 151_936, 262_144):
        yield Variant(
            kernel=choice.collect_kernel,
            dtype="fp32",
            tile=collecting(vocab_size),
            arguments={
                "scaled_ptr": "*fp32:16",
                "peaks_ptr": "*fp32:16",
                "weights_ptr": "*fp32:16",
                "floats_ptr": "*fp32:16",
                "top_k_ptr": "*i32:16",
                "counts_ptr": "*i32:16",
                "fronts_ptr": "*fp32:16",
                "tokens_ptr": "*i32:16",
                "vocab_size": "i32:16",
                "num_chunks": "i32",
            },
        )
        yield Variant(
            kernel=choice.choose_kernel,
            dtype="fp32",
            tile=choosing(vocab_size),
            arguments={
                "scaled_ptr": "*fp32:16",
                "peaks_ptr": "*fp32:16",
                "peak_tokens_ptr": "*i32:16",
                "least_ptr": "*fp32:16",
                "weights_ptr": "*fp32:16",
                "counts_ptr": "*i32:16",
                "fronts_ptr": "*fp32:16",
                "tokens_ptr": "*i32:16",
                "floats_ptr": "*fp32:16",
                "top_k_ptr": "*i32:16",
                "keys_ptr": "*i64:16",
                "token_ids_ptr": "*i32:16",
                "vocab_size": "i32:16",
                "num_chunks": "i32",
            },
        )


def workloads() -> Iterator[Workload]:
    vocab_size = 128_256
    for num_rows in (16, 256):

        def prepare(device: torch.device, num_rows: int = num_rows) -> Call:
            logits = torch.randn(num_rows, vocab_size, dtype=torch.bfloat16, device=device) * 3
            rows = _Rows(num_rows)
            sent: list[Tensor] = []

            def once(array: np.ndarray) -> Tensor:
                sent[:] = sent or [putting(logits)(array)]
                return sent[0]

            return lambda: choose(logits, rows, once)

        yield Workload(
            op="sample",
            size=f"{num_rows} × {vocab_size}, top-k 50 and top-p 0.9",
            dtype="bf16",
            bytes=num_rows * vocab_size * 2,
            flops=8 * num_rows * vocab_size,
            unit="vector",
            prepare=prepare,
        )


class _Rows:
    """Of a SamplingBatch what `choose` reads, for the benchmark."""

    def __init__(self, num_rows: int) -> None:
        self.temperature = np.full(num_rows, 0.8, np.float32)
        self.top_p = np.full(num_rows, 0.9, np.float32)
        self.min_p = np.zeros(num_rows, np.float32)
        self.top_k = np.full(num_rows, 50, np.int32)
        self.seeds, self.draws = np.arange(num_rows, dtype=np.uint64), np.zeros(num_rows, np.int64)
        self.candidates, self.mask_rows = np.zeros(num_rows, np.int32), np.empty(0, np.int32)
