"""A step's sequences as the attention kernels read them. Contract: `octavo.kernels.ops.Ops.plan_attention`.

Everything is integers in one array, which goes to the device in one copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from octavo.kernels.reference.sampling import Put

SHORT = 16
"""Most new tokens of a sequence whose context is worth splitting: decodes, and guesses to verify."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Sequences that one launch computes.

    numbers: int32 [5, num_seqs + 1], by sequence: its first token's row in the step, its new tokens, its
        context, its row in the block tables; and new tokens of all sequences before it, ending with their
        sum. The first four rows' last elements mean nothing.
    num_seqs, num_tokens: how many; most_tokens, longest_context: of any sequence.
    """

    numbers: Tensor
    num_seqs: int
    num_tokens: int
    most_tokens: int
    longest_context: int


@dataclass(frozen=True, slots=True)
class Plan:
    """slots: int32 [num_tokens], block · block_size + place in it, where each token's keys and values go.

    block_tables: int32 [num_seqs, max_blocks]. short: sequences of at most `SHORT` new tokens; long: the
    others. None where there are none.
    """

    slots: Tensor
    block_tables: Tensor
    short: Rows | None
    long: Rows | None


def plan_attention(
    query_lens: np.ndarray,
    context_lens: np.ndarray,
    positions: np.ndarray,
    block_tables: np.ndarray,
    block_size: int,
    num_kv_heads: int,
    like: Tensor,
    put: Put | None = None,
    longest_context: int | None = None,
) -> Plan:
    owners = np.repeat(np.arange(len(query_lens)), query_lens)
    slots = block_tables[owners, positions // block_size] * block_size + positions % block_size
    first_tokens = np.cumsum(query_lens) - query_lens

    def numbers(members: np.ndarray) -> np.ndarray:
        table = np.zeros((5, len(members) + 1), np.int32)
        columns = (first_tokens[members], query_lens[members], context_lens[members], members)
        table[:4, :-1] = columns
        table[4, 1:] = np.cumsum(query_lens[members])
        return table

    def rows(members: np.ndarray, numbers: Tensor) -> Rows | None:
        if not len(members):
            return None
        lens = query_lens[members]
        longest = longest_context or int(context_lens[members].max())
        return Rows(numbers, len(members), int(lens.sum()), int(lens.max()), longest)

    short, long = np.flatnonzero(query_lens <= SHORT), np.flatnonzero(query_lens > SHORT)
    arrays = [slots, block_tables, numbers(short), numbers(long)]
    if put is not None:
        slots_, tables, of_short, of_long = (put(array.astype(np.int32)) for array in arrays)
    else:
        slots_, tables, of_short, of_long = _on_device(arrays, like.device)
    return Plan(slots_, tables, rows(short, of_short), rows(long, of_long))


def _on_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """As int32, of the same shapes, by one copy."""
    ends = np.cumsum([0, *(array.size for array in arrays)])
    flat = torch.from_numpy(np.concatenate([array.reshape(-1).astype(np.int32) for array in arrays]))
    flat = flat.to(device)
    return [
        flat[a:b].view(array.shape) for array, (a, b) in zip(arrays, pairwise(ends.tolist()), strict=True)
    ]
