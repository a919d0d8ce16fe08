"""From a step's logits to its output, by whatever samples and scores them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from octavo.engine.batch import StepOutput

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo.engine.batch import Batch


def draw(logits: Any, batch: Batch, sample: Callable[..., Any], score: Callable[..., Any]) -> StepOutput:
    """logits: [num_rows + num_scored, vocab_size]; sample, score: as `octavo.kernels.ops.Ops` has them.
    The output's arrays are theirs."""
    num_rows = len(batch.sampling)
    scored = None
    if len(batch.scoring):
        targets = batch.scoring.targets
        logprobs, top_ids, top_logprobs = score(logits[num_rows:], targets, batch.scoring.most)
        scored = StepOutput(token_ids=targets, logprobs=logprobs, top_ids=top_ids, top_logprobs=top_logprobs)
    if not num_rows:
        return StepOutput(token_ids=np.empty(0, np.int32), scored=scored)
    token_ids, logprobs, top_ids, top_logprobs, candidate_ids, candidate_logprobs = sample(
        logits[:num_rows], batch.sampling
    )
    return StepOutput(
        token_ids=token_ids,
        logprobs=logprobs,
        top_ids=top_ids,
        top_logprobs=top_logprobs,
        candidate_ids=candidate_ids,
        candidate_logprobs=candidate_logprobs,
        scored=scored,
    )
