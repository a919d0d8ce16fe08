"""Paged attention by gathering each sequence's blocks and calling torch's attention.
Contracts: `octavo.kernels.ops.Ops`.

Decodes of similar length go together as one padded batch; each prefill chunk goes alone. The query heads that
share a key-value head stand where queries of different positions would: a decode has one position, so nothing
needs repeating.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(slots=True)
class Group:
    """Sequences that are computed in one call.

    tokens: int64 [num_seqs * query_len], their rows among the step's tokens.
    blocks: int64 [num_seqs * num_blocks], their block tables, padded.
    query_positions: int64 [num_seqs, query_len]; key_positions: int64 [num_blocks * block_size].
    causal_only: one whole prompt from its start, for which torch has a faster way than a mask.
    """

    tokens: Tensor
    blocks: Tensor
    query_positions: Tensor
    key_positions: Tensor
    causal_only: bool
    dtype: torch.dtype
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None) -> Tensor:
        """What is added to the scores, [num_seqs, 1, query_len, num_keys]: 0 where a key is seen, else
        -inf."""
        if window not in self.masks:
            distance = self.query_positions[:, None, :, None] - self.key_positions
            hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
            self.masks[window] = torch.zeros(
                hidden.shape, dtype=self.dtype, device=hidden.device
            ).masked_fill_(hidden, -torch.inf)
        return self.masks[window]


Plan = list[Group]


def plan_attention(
    query_lens: np.ndarray, context_lens: np.ndarray, block_tables: np.ndarray, block_size: int, like: Tensor
) -> Plan:
    first_tokens = np.cumsum(query_lens) - query_lens
    num_blocks = -(-context_lens // block_size)

    def group(members: list[int]) -> Group:
        query_len, widest = int(query_lens[members[0]]), int(num_blocks[members].max())
        tokens = first_tokens[members, None] + np.arange(query_len)
        positions = (context_lens[members] - query_len)[:, None] + np.arange(query_len)
        return Group(
            tokens=torch.from_numpy(tokens.reshape(-1)).to(like.device),
            blocks=torch.from_numpy(block_tables[members, :widest].reshape(-1)).to(like.device, torch.int64),
            query_positions=torch.from_numpy(positions).to(like.device),
            key_positions=torch.arange(widest * block_size, device=like.device),
            causal_only=len(members) == 1 and query_len == int(context_lens[members[0]]),
            dtype=like.dtype,
        )

    def size_class(sequence: int) -> int:
        return int(num_blocks[sequence]).bit_length()

    decodes = sorted(np.flatnonzero(query_lens == 1).tolist(), key=size_class)
    prefills = np.flatnonzero(query_lens > 1).tolist()
    batches = [list(members) for _, members in groupby(decodes, size_class)]
    return [group(members) for members in [*batches, *([sequence] for sequence in prefills)]]


def paged_attention(
    query: Tensor, key_cache: Tensor, value_cache: Tensor, plan: Plan, scale: float, window: int | None
) -> Tensor:
    num_heads, head_dim = query.shape[1:]
    num_kv_heads = key_cache.shape[2]
    output = torch.empty_like(query)
    for group in plan:
        num_seqs, query_len = group.query_positions.shape
        num_keys = group.key_positions.shape[0]

        def gather(
            cache: Tensor, group: Group = group, shape: tuple[int, int] = (num_seqs, num_keys)
        ) -> Tensor:
            # Flat rows are copied as wholes, ten times as fast as elements along the first of four
            # dimensions.
            rows = cache.flatten(1).index_select(0, group.blocks)
            return rows.view(*shape, num_kv_heads, head_dim).transpose(1, 2)

        keys, values = gather(key_cache), gather(value_cache)
        q = query.index_select(0, group.tokens)
        if query_len == 1:
            q = q.view(num_seqs, num_kv_heads, num_heads // num_kv_heads, head_dim)
            result = F.scaled_dot_product_attention(q, keys, values, group.mask(window), scale=scale)
            result = result.reshape(num_seqs, num_heads, head_dim)
        else:
            causal_only = group.causal_only and window is None
            q = q.view(num_seqs, query_len, num_heads, head_dim).transpose(1, 2)
            result = F.scaled_dot_product_attention(
                q,
                keys[:, :, :query_len] if causal_only else keys,
                values[:, :, :query_len] if causal_only else values,
                None if causal_only else group.mask(window),
                is_causal=causal_only,
                scale=scale,
                enable_gqa=num_heads != num_kv_heads,
            )
            result = result.transpose(1, 2).reshape(-1, num_heads, head_dim)
        output.index_copy_(0, group.tokens, result)
    return output
