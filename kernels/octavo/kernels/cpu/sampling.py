"""Choosing tokens from rows of logits in C++. Contract: `octavo.kernels.ops.Ops.sample` and `score`."""

from __future__ import annotations

import ctypes
import weakref
from ctypes import c_int32, c_size_t, c_void_p
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Sampled = tuple[Ints, Floats | None, Ints | None, Floats | None, Ints | None, Floats | None]


class _LogitsOfRows(ctypes.Structure):
    _fields_ = (("values", c_void_p), ("stride", c_size_t), ("num_rows", c_int32), ("vocab_size", c_int32))

    def __init__(self, logits: Floats) -> None:
        num_rows, vocab_size = logits.shape
        assert logits.dtype == np.float32
        assert logits.strides[1] == logits.itemsize or not num_rows
        super().__init__(logits.ctypes.data, logits.strides[0] // logits.itemsize, num_rows, vocab_size)


class _Ranks(ctypes.Structure):
    _fields_ = (("tokens", c_void_p), ("values", c_void_p), ("most", c_int32))


_COLUMNS: dict[str, type[np.generic]] = {
    "temperature": np.float32,
    "top_p": np.float32,
    "min_p": np.float32,
    "top_k": np.int32,
    "seeds": np.uint64,
    "draws": np.int64,
    "repetition": np.float32,
    "frequency": np.float32,
    "presence": np.float32,
    "seen_rows": np.int32,
    "seen_tokens": np.int32,
    "seen_counts": np.float32,
    "bias_rows": np.int32,
    "bias_tokens": np.int32,
    "bias_values": np.float32,
    "logprobs": np.int32,
    "candidates": np.int32,
    "mask_rows": np.int32,
}
"""The arrays of a SamplingBatch in the order of the C++ structure."""


class _Sampling(ctypes.Structure):
    _fields_ = (
        ("logits", _LogitsOfRows),
        *((name, c_void_p) for name in _COLUMNS),
        ("masks", c_void_p),
        *((name, c_int32) for name in ("num_seen", "num_biases", "num_masked", "mask_words")),
        ("token_ids", c_void_p),
        ("token_logprobs", c_void_p),
        ("top", _Ranks),
        ("best", _Ranks),
    )


class _Scoring(ctypes.Structure):
    _fields_ = (("logits", _LogitsOfRows), ("targets", c_void_p), ("logprobs", c_void_p), ("top", _Ranks))


class Sampler:
    """Keeps the memory that choosing takes from step to step. For one call at a time.

    library: as built by `octavo.kernels.cpu.build`. pool: an `octavo_pool_new`, which must outlive this.
    """

    def __init__(self, library: ctypes.CDLL, pool: int) -> None:
        library.octavo_sampler_new.restype = c_void_p
        library.octavo_sampler_free.argtypes = [c_void_p]
        library.octavo_sampler_free.restype = None
        for function, structure in ((library.octavo_sample, _Sampling), (library.octavo_score, _Scoring)):
            function.argtypes = [c_void_p, c_void_p, ctypes.POINTER(structure)]
            function.restype = None
        self._library = library
        self._pool = pool
        self._handle = library.octavo_sampler_new()
        weakref.finalize(self, library.octavo_sampler_free, self._handle)

    def sample(self, logits: Floats, sampling: Any) -> Sampled:
        """logits: float32 [num_rows, vocab_size], whose rows may lie apart; they are left as they are.
        sampling: SamplingBatch → the fields of StepOutput.

        A row's likeliest tokens and candidates are filled in as far as the row asks for them; what is beyond
        is zero, and so are the log-probabilities of rows that ask for none.
        """
        columns = {name: np.ascontiguousarray(getattr(sampling, name), t) for name, t in _COLUMNS.items()}
        # The masks are asked for last: this may wait.
        masks = np.ascontiguousarray(sampling.masks(), np.uint32) if len(columns["mask_rows"]) else None
        num_rows, vocab_size = logits.shape
        asked = int(columns["logprobs"].max(initial=-1))
        searched = int(columns["candidates"].max(initial=0))
        assert max(asked, searched) <= vocab_size
        assert masks is None or masks.shape[1] * 32 >= vocab_size

        token_ids = np.empty(num_rows, np.int32)
        logprobs = np.zeros(num_rows, np.float32) if asked >= 0 else None
        top, top_ids, top_logprobs = _ranks(num_rows, asked)
        best, best_ids, best_logprobs = _ranks(num_rows, searched or -1)
        self._library.octavo_sample(
            self._pool,
            self._handle,
            _Sampling(
                _LogitsOfRows(logits),
                *(column.ctypes.data for column in columns.values()),
                None if masks is None else masks.ctypes.data,
                len(columns["seen_rows"]),
                len(columns["bias_rows"]),
                len(columns["mask_rows"]),
                0 if masks is None else masks.shape[1],
                token_ids.ctypes.data,
                None if logprobs is None else logprobs.ctypes.data,
                top,
                best,
            ),
        )
        return token_ids, logprobs, top_ids, top_logprobs, best_ids, best_logprobs

    def score(self, logits: Floats, targets: Ints, most: int) -> tuple[Floats, Ints, Floats]:
        """logits: as above; targets: int32 [num_rows] → natural logarithms, float32: of the targets,
        [num_rows]; the `most` likeliest tokens, int32, and theirs, likeliest first, [num_rows, most] each."""
        num_rows, vocab_size = logits.shape
        assert most <= vocab_size
        targets = np.ascontiguousarray(targets, np.int32)
        logprobs = np.empty(num_rows, np.float32)
        top, top_ids, top_logprobs = _ranks(num_rows, most)
        assert top_ids is not None
        assert top_logprobs is not None
        self._library.octavo_score(
            self._pool,
            self._handle,
            _Scoring(_LogitsOfRows(logits), targets.ctypes.data, logprobs.ctypes.data, top),
        )
        return logprobs, top_ids, top_logprobs


def _ranks(num_rows: int, most: int) -> tuple[_Ranks, Ints | None, Floats | None]:
    """Where `most` tokens of each row and their values go; nowhere if it is -1."""
    if most < 0:
        return _Ranks(), None, None
    tokens, values = np.zeros((num_rows, most), np.int32), np.zeros((num_rows, most), np.float32)
    return _Ranks(tokens.ctypes.data, values.ctypes.data, most), tokens, values
