"""Paged attention by gathering each sequence's blocks and calling torch's attention.
Contracts: `octavo.kernels.ops.Ops`.

Decodes of similar length go together as one padded batch, by two plain products, which on a CPU take a third
of the time of torch's fused attention; each prefill chunk goes alone. In a decode the query heads that share
a key-value head stand where queries of different positions would, so nothing needs repeating.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from octavo.kernels.cache import Int8Cache

if TYPE_CHECKING:
    from collections.abc import Callable

QUERY_PIECE = 128

Cache = Tensor | Int8Cache[Tensor]


@dataclass(slots=True)
class Group:
    """Sequences that are computed in one call.

    tokens: int64 [num_seqs * query_len], their rows among the step's tokens.
    cache_rows: int64 [num_seqs * num_kv_heads * num_blocks], their blocks, a row for each key-value head.
    query_positions: int64 [num_seqs, query_len]; key_positions: int64 [num_blocks * block_size].
    causal_only: one whole prompt from its start, for which torch has a faster way than a mask.
    """

    tokens: Tensor
    cache_rows: Tensor
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

    def gather(self, cache: Cache) -> Tensor:
        """The keys or values of these sequences, [num_seqs, num_kv_heads, num_keys, head_dim]."""
        if isinstance(cache, Int8Cache):
            scales = self.gather(cache.scales[..., None])
            return (self.gather(cache.values) * scales).to(self.dtype)
        num_kv_heads, head_dim = cache.shape[1], cache.shape[3]
        # Flat rows are copied as wholes, ten times as fast as along one of four dimensions, and come out in
        # the order that attention is fastest in.
        rows = cache.view(-1, cache.shape[2] * head_dim).index_select(0, self.cache_rows)
        return rows.view(len(self.query_positions), num_kv_heads, len(self.key_positions), head_dim)


@dataclass(slots=True)
class Plan:
    """new_rows: int64 [num_tokens * num_kv_heads], where the step's own keys and values go in a flat
    cache."""

    new_rows: Tensor
    groups: list[Group]


def plan_attention(
    query_lens: np.ndarray,
    context_lens: np.ndarray,
    positions: np.ndarray,
    block_tables: np.ndarray,
    block_size: int,
    num_kv_heads: int,
    like: Tensor,
    put: Callable[[np.ndarray], Tensor] | None = None,
    longest_context: int | None = None,
) -> Plan:
    """longest_context: makes no difference here, where nothing is launched later with other sequences."""
    heads = np.arange(num_kv_heads)
    first_tokens = np.cumsum(query_lens) - query_lens
    num_blocks = -(-context_lens // block_size)

    def tensor(values: np.ndarray) -> Tensor:
        values = values.astype(np.int64)
        return put(values) if put is not None else torch.from_numpy(values).to(like.device)

    def group(members: list[int]) -> Group:
        query_len, widest = int(query_lens[members[0]]), int(num_blocks[members].max())
        starts = (context_lens[members] - query_len)[:, None]
        blocks = block_tables[members, None, :widest].astype(np.int64)
        return Group(
            tokens=tensor((first_tokens[members, None] + np.arange(query_len)).reshape(-1)),
            cache_rows=tensor((blocks * num_kv_heads + heads[:, None]).reshape(-1)),
            query_positions=tensor(starts + np.arange(query_len)),
            key_positions=torch.arange(widest * block_size, device=like.device),
            causal_only=len(members) == 1 and query_len == int(context_lens[members[0]]),
            dtype=like.dtype,
        )

    def size_class(sequence: int) -> int:
        return int(num_blocks[sequence]).bit_length()

    decodes = sorted(np.flatnonzero(query_lens == 1).tolist(), key=size_class)
    prefills = np.flatnonzero(query_lens > 1).tolist()
    batches = [list(members) for _, members in groupby(decodes, size_class)]

    owners = np.repeat(np.arange(len(query_lens)), query_lens)
    new_blocks = block_tables[owners, positions // block_size].astype(np.int64)
    new_rows = (new_blocks[:, None] * num_kv_heads + heads) * block_size + (positions % block_size)[:, None]
    return Plan(
        new_rows=tensor(new_rows.reshape(-1)),
        groups=[group(members) for members in [*batches, *([sequence] for sequence in prefills)]],
    )


def store_kv(key: Tensor, value: Tensor, key_cache: Cache, value_cache: Cache, plan: Plan) -> None:
    for new, cache in ((key, key_cache), (value, value_cache)):
        rows = new.reshape(-1, new.shape[-1])
        if isinstance(cache, Int8Cache):
            rows, scales = quantize(rows)
            cache.scales.view(-1).index_copy_(0, plan.new_rows, scales)
            cache = cache.values
        cache.view(-1, new.shape[-1]).index_copy_(0, plan.new_rows, rows)


def quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """rows: [n, head_dim] → int8 as they are, and float32 [n], their scales: see `Int8Cache`."""
    scales = rows.float().abs().amax(-1) / 127
    scaled = rows.float() / scales.masked_fill(scales == 0, 1)[:, None]
    return scaled.round().to(torch.int8), scales


def paged_attention(
    query: Tensor,
    key_cache: Cache,
    value_cache: Cache,
    plan: Plan,
    scale: float,
    window: int | None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    num_heads, head_dim = query.shape[1:]
    num_kv_heads = (key_cache.values if isinstance(key_cache, Int8Cache) else key_cache).shape[1]
    output = torch.empty_like(query)
    for group in plan.groups:
        num_seqs, query_len = group.query_positions.shape
        keys, values = group.gather(key_cache), group.gather(value_cache)
        q = query.index_select(0, group.tokens)
        if softcap is not None or sinks is not None:
            q = q.view(num_seqs, query_len, num_heads, head_dim)
            result = attention_by_parts(q, keys, values, group.mask(window), scale, softcap, sinks)
        elif query_len == 1:
            q = q.view(num_seqs, num_kv_heads, num_heads // num_kv_heads, head_dim)
            scores = torch.add(group.mask(window), torch.matmul(q, keys.transpose(2, 3)), alpha=scale)
            result = torch.matmul(torch.softmax(scores, -1), values)
        elif q.dtype is torch.bfloat16 and q.device.type == "cpu":
            result = prefill_by_products(q, keys[0], values[0], group.mask(window)[0, 0], scale)
        else:
            causal_only = group.causal_only and window is None
            result = F.scaled_dot_product_attention(
                q.unsqueeze(0).transpose(1, 2),
                keys[:, :, :query_len] if causal_only else keys,
                values[:, :, :query_len] if causal_only else values,
                None if causal_only else group.mask(window),
                is_causal=causal_only,
                scale=scale,
                enable_gqa=num_heads != num_kv_heads,
            ).transpose(1, 2)
        output.index_copy_(0, group.tokens, result.reshape(-1, num_heads, head_dim))
    return output


def attention_by_parts(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """What torch's own attention has no word for, in float32.

    query: [num_seqs, query_len, num_heads, head_dim] → the same; keys, values: of `Group.gather`; mask: of
    `Group.mask`.
    """
    num_seqs, query_len, _, head_dim = query.shape
    num_kv_heads = keys.shape[1]
    q = query.view(num_seqs, query_len, num_kv_heads, -1, head_dim).permute(0, 2, 3, 1, 4).float()
    scores = torch.matmul(q, keys[:, :, None].transpose(3, 4).float()) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores + mask[:, :, None].float()
    if sinks is not None:
        sink = sinks.float().view(1, num_kv_heads, -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sink], -1)
    weights = torch.softmax(scores, -1)[..., : keys.shape[2]]
    result = torch.matmul(weights, values[:, :, None].float())
    return result.permute(0, 3, 1, 2, 4).reshape(query.shape).to(query.dtype)


def prefill_by_products(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention of one prefill chunk by two plain products, [query_len, num_heads, head_dim] as the query.

    keys, values: [num_kv_heads, num_keys, head_dim]; mask: [query_len, num_keys], what is added to the
        scores.
    For bfloat16 on a CPU: oneDNN's products are nearly twice as fast as torch's fused attention there. Piece
    by piece of the query, so that keys which come after a whole piece are not looked at.
    """
    num_tokens, num_heads, head_dim = query.shape
    num_kv_heads, num_keys, _ = keys.shape
    group = num_heads // num_kv_heads
    q = query.view(num_tokens, num_kv_heads, group, head_dim).permute(1, 2, 0, 3)
    keys = keys.transpose(1, 2)
    output = query.new_empty(num_tokens, num_kv_heads, group, head_dim)
    for start in range(0, num_tokens, QUERY_PIECE):
        end = min(start + QUERY_PIECE, num_tokens)
        seen = num_keys - num_tokens + end  # with the padding at the end, which the mask hides
        scores = torch.bmm(q[:, :, start:end].reshape(num_kv_heads, -1, head_dim), keys[:, :, :seen])
        scores = scores.view(num_kv_heads, group, end - start, seen)
        scores = torch.add(mask[start:end, :seen], scores, alpha=scale)
        weights = torch.softmax(scores, -1).view(num_kv_heads, -1, seen)
        result = torch.bmm(weights, values[:, :seen]).view(num_kv_heads, group, end - start, head_dim)
        output[start:end] = result.permute(2, 0, 1, 3)
    return output
