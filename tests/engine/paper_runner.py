"""A runner whose keys and values are the tokens themselves.

What it draws depends on all that a sequence's blocks should hold, and on all that the sampling op is told: a
block that is shared, copied, freed or written wrongly, or a token that comes late, changes the output. Its
arithmetic is exact, so that an output does not depend on the batch.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np

from octavo.engine.batch import Batch, StepOutput
from octavo.engine.config import BLOCK_SIZE

VOCAB_SIZE = 40
EOS = 1


class PaperRunner:
    """See `octavo.engine.runners.Runner`. num_computed: tokens so far."""

    block_bytes, device, dtype = 1024, "cpu", "float32"

    def __init__(self, num_blocks: int) -> None:
        self.num_computed = 0
        self.allocate(num_blocks)

    def free_memory(self) -> int:
        return 1 << 20

    def allocate(self, num_blocks: int) -> None:
        self._pool = np.full((num_blocks, BLOCK_SIZE), -1, np.int32)

    def logits(self, batch: Batch) -> Any:
        raise NotImplementedError

    def run(self, batch: Batch) -> StepOutput:
        assert (batch.token_ids >= 0).all()
        self.num_computed += len(batch.token_ids)
        if len(batch.copies):
            sources, targets = batch.copies.T
            self._pool[targets] = self._pool[sources]
        owners = np.repeat(np.arange(len(batch.query_lens)), batch.query_lens)
        blocks = batch.block_tables[owners, batch.positions // BLOCK_SIZE]
        self._pool[blocks, batch.positions % BLOCK_SIZE] = batch.token_ids
        tokens, logprobs, candidates = [], [], []
        for row, token in enumerate(batch.sampling.rows):
            context = self._pool[batch.block_tables[owners[token]]].reshape(-1)[: batch.positions[token] + 1]
            assert (context >= 0).all(), "keys and values are missing"
            number = crc32(context.tobytes() + _told(batch, row))
            tokens.append(number % VOCAB_SIZE)
            logprobs.append(-(number >> 8) / 2**24)
            candidates.append(np.random.default_rng(number).permutation(VOCAB_SIZE)[:12])
        values = np.array(logprobs, np.float32)
        ids = np.array(candidates, np.int32).reshape(-1, 12)
        falling = values[:, None] - np.arange(12, dtype=np.float32)
        return StepOutput(
            token_ids=np.array(tokens, np.int32),
            logprobs=values,
            top_ids=ids,
            top_logprobs=falling,
            candidate_ids=ids,
            candidate_logprobs=falling,
        )


def _told(batch: Batch, row: int) -> bytes:
    """What the sampling op is told of a row, in an order of its own."""
    sampling = batch.sampling
    seen = np.flatnonzero(sampling.seen_rows == row)
    seen = seen[np.argsort(sampling.seen_tokens[seen])]
    biases = np.flatnonzero(sampling.bias_rows == row)
    seed = sampling.seeds[row] * (sampling.candidates[row] == 0)  # a beam search draws nothing
    parts = (seed, sampling.draws[row], sampling.seen_tokens[seen], sampling.seen_counts[seen],
             sampling.bias_tokens[biases])  # fmt: skip
    return b"".join(part.tobytes() for part in parts)
