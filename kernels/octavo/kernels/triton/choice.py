"""Kernels that choose a token of each row: no sorting, no atomics, one result whatever runs beside it.

A cut keeps the logits from a threshold on. The threshold is found by halving the range it may be in, whose
ends are logits of the row, so that it shrinks by what lies between them, not by bits (compare FlashInfer's
sampling kernels, Ye et al., 2025, section 3.3). That goes through the row again and again, so what cannot be
below any cut is put together first: mostly it is a few tokens of each chunk.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["mask_words"])
def survey_kernel(
    logits_ptr,
    scaled_ptr,
    peaks_ptr,
    peak_tokens_ptr,
    least_ptr,
    weights_ptr,
    floats_ptr,
    mask_rows_ptr,
    masks_ptr,
    vocab_size,
    stride,
    mask_words,
    MASKED: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """A program reads a chunk of a row: scaled = logits / temperature, -inf where a token is forbidden; the
    largest of it, where it first is, the least that is not -inf, and the weight of all, 1 of the largest."""
    row, chunk = tl.program_id(1), tl.program_id(0)
    tokens = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = tokens < vocab_size
    at = row.to(tl.int64) * stride + tokens
    x = tl.load(logits_ptr + at, mask=inside, other=-float("inf")).to(tl.float32)
    if MASKED:
        mask_row = tl.load(mask_rows_ptr + row)
        words = masks_ptr + tl.maximum(mask_row, 0).to(tl.int64) * mask_words + tokens // 32
        allowed = (tl.load(words, mask=inside, other=0) >> (tokens % 32)) & 1
        x = tl.where((allowed != 0) | (mask_row < 0), x, -float("inf"))
    temperature = tl.load(floats_ptr + row)
    x = tl.div_rn(x, tl.where(temperature > 0, temperature, 1.0))
    tl.store(scaled_ptr + row.to(tl.int64) * vocab_size + tokens, x, mask=inside)
    peak, where = tl.max(x, 0, return_indices=True)
    to = row * tl.num_programs(0) + chunk
    tl.store(peaks_ptr + to, peak)
    tl.store(peak_tokens_ptr + to, chunk * CHUNK + where)
    tl.store(least_ptr + to, tl.min(tl.where(x > -float("inf"), x, float("inf")), 0))
    tl.store(weights_ptr + to, tl.sum(tl.exp(x - tl.where(peak > -float("inf"), peak, 0.0)), 0))


@triton.jit
def reached_by(peaks, chunks, num_chunks, top_k, PEAKS: tl.constexpr):
    """A logit that at least top_k of a row reach: as many as chunks have their largest from there on. -inf if
    there are fewer chunks."""
    ranked = tl.sort(peaks, descending=True)
    reached = tl.max(tl.where(chunks >= tl.minimum(top_k, PEAKS) - 1, ranked, -float("inf")), 0)
    return tl.where(top_k <= num_chunks, reached, -float("inf"))


@triton.jit
def too_light(largest, top_p, total, vocab_size):
    """A logit below which top-p keeps nothing: were all tokens as light as this or lighter, they would have
    no more than what is left out. total: the weight of what top-p is of."""
    return tl.minimum(largest + tl.log(0.99 * (1 - top_p) * total / vocab_size), largest)


@triton.jit
def weight_of_chunks(peaks, weights, largest):
    """Of all tokens of a row, in weights of the largest."""
    return tl.sum(tl.where(peaks > -float("inf"), weights * tl.exp(peaks - largest), 0.0), 0)


@triton.jit(do_not_specialize=["num_chunks"])
def collect_kernel(
    scaled_ptr,
    peaks_ptr,
    weights_ptr,
    floats_ptr,
    top_k_ptr,
    counts_ptr,
    fronts_ptr,
    tokens_ptr,
    vocab_size,
    num_chunks,
    PEAKS: tl.constexpr,
    CHUNK: tl.constexpr,
    FRONT: tl.constexpr,
):
    """A program puts together what cuts may leave of a chunk, in the order of tokens: how many, and the first
    FRONT of them with their tokens; -inf fills up. Rows without cuts, and those that draw nothing, count as
    having more than FRONT."""
    row, chunk, num_rows = tl.program_id(1), tl.program_id(0), tl.num_programs(1)
    top_k = tl.load(top_k_ptr + row)
    temperature = tl.load(floats_ptr + row)
    top_p = tl.load(floats_ptr + num_rows + row)
    log_min_p = tl.load(floats_ptr + 2 * num_rows + row)
    is_ranked = (top_k > 0) & (top_k < vocab_size)
    count = FRONT + 1
    if (temperature > 0) & (is_ranked | (top_p < 1) | (log_min_p > -float("inf"))):
        chunks = tl.arange(0, PEAKS)
        exists = chunks < num_chunks
        peaks = tl.load(peaks_ptr + row * num_chunks + chunks, mask=exists, other=-float("inf"))
        largest = tl.max(peaks, 0)
        if is_ranked:
            bound = reached_by(peaks, chunks, num_chunks, top_k, PEAKS)
        elif top_p < 1:
            weights = tl.load(weights_ptr + row * num_chunks + chunks, mask=exists, other=0.0)
            bound = too_light(largest, top_p, weight_of_chunks(peaks, weights, largest), vocab_size)
        else:
            bound = largest + log_min_p
        lanes = tl.arange(0, CHUNK)
        tokens = chunk * CHUNK + lanes
        at = row.to(tl.int64) * vocab_size + tokens
        x = tl.load(scaled_ptr + at, mask=tokens < vocab_size, other=-float("inf"))
        kept = (x >= bound) & (tokens < vocab_size)
        before = tl.cumsum(kept.to(tl.int32), 0)
        count = tl.sum(kept.to(tl.int32), 0)
        # The others come behind, so that every place is written once.
        place = tl.where(kept, before - 1, count + lanes - before)
        to = (row.to(tl.int64) * num_chunks + chunk) * FRONT + place
        tl.store(fronts_ptr + to, tl.where(kept, x, -float("inf")), mask=place < FRONT)
        tl.store(tokens_ptr + to, tokens, mask=place < FRONT)
    tl.store(counts_ptr + row * num_chunks + chunk, count)


@triton.jit
def mix(x):
    x += 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def uniform(seed, draw):
    """As `octavo.kernels.random.uniform`, of the bits of both as int64."""
    draw = draw.to(tl.uint64, bitcast=True) * 0x9E3779B97F4A7C15
    bits = mix(mix(seed.to(tl.uint64, bitcast=True)) + draw)
    return (bits >> 12).to(tl.int64).to(tl.float64) * 2.0**-52


@triton.jit
def weights_at(row_ptr, start, vocab_size, bound, shift, BLOCK: tl.constexpr):
    """Of a block of tokens, not normalised; 0 for those below the bound."""
    at = start + tl.arange(0, BLOCK)
    x = tl.load(row_ptr + at, mask=at < vocab_size, other=-float("inf"))
    return tl.where((x >= bound) & (at < vocab_size), tl.exp(x - shift), 0.0)


@triton.jit
def total_weight(row_ptr, vocab_size, bound, shift, BLOCK: tl.constexpr):
    total = tl.full((), 0.0, tl.float64)
    for start in range(0, vocab_size, BLOCK):
        total += tl.sum(weights_at(row_ptr, start, vocab_size, bound, shift, BLOCK), 0).to(tl.float64)
    return total


@triton.jit
def threshold(row_ptr, vocab_size, low, high, limit, shift, WEIGHED: tl.constexpr, BLOCK: tl.constexpr):
    """The least logit of the row above which there is less than `limit`: tokens, or weight if WEIGHED.

    It is known to be `low` at least and `high`, one of the row, at most.
    """
    lanes = tl.arange(0, BLOCK)
    while low < high:
        middle = low + (high - low) * 0.5
        middle = tl.where(middle < high, middle, low)  # between neighbours there is nothing
        above = tl.zeros((BLOCK,), tl.float32)
        next_above = tl.full((BLOCK,), float("inf"), tl.float32)
        next_below = tl.full((BLOCK,), -float("inf"), tl.float32)
        for start in range(0, vocab_size, BLOCK):
            x = tl.load(row_ptr + start + lanes, mask=start + lanes < vocab_size, other=-float("inf"))
            beyond = x > middle
            if WEIGHED:
                above += tl.where(beyond, tl.exp(x - shift), 0.0)
            else:
                above += tl.where(beyond, 1.0, 0.0)
            next_above = tl.minimum(next_above, tl.where(beyond, x, float("inf")))
            next_below = tl.maximum(next_below, tl.where(beyond, -float("inf"), x))
        if tl.sum(above, 0) < limit:
            high = tl.max(next_below, 0)
        else:
            low = tl.min(next_above, 0)
    return high


@triton.jit(do_not_specialize=["num_chunks"])
def choose_kernel(
    scaled_ptr,
    peaks_ptr,
    peak_tokens_ptr,
    least_ptr,
    weights_ptr,
    counts_ptr,
    fronts_ptr,
    tokens_ptr,
    floats_ptr,
    top_k_ptr,
    keys_ptr,
    token_ids_ptr,
    vocab_size,
    num_chunks,
    PEAKS: tl.constexpr,
    FRONT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program chooses for a row. floats: [temperature, top-p, log min-p][num_rows]; keys: [seed,
    draw][num_rows]. The rest is of `survey_kernel` and `collect_kernel`."""
    row, num_rows = tl.program_id(0), tl.num_programs(0)
    chunks = tl.arange(0, PEAKS)
    of_row = row * num_chunks + chunks
    peaks = tl.load(peaks_ptr + of_row, mask=chunks < num_chunks, other=-float("inf"))
    largest = tl.max(peaks, 0)
    first_peak = tl.argmax(peaks, 0)
    token = tl.load(peak_tokens_ptr + row * num_chunks + first_peak)
    temperature = tl.load(floats_ptr + row)
    if (temperature > 0) & (largest > -float("inf")):
        top_k = tl.load(top_k_ptr + row)
        top_p = tl.load(floats_ptr + num_rows + row)
        exists = chunks < num_chunks
        bound = tl.min(tl.load(least_ptr + of_row, mask=exists, other=float("inf")), 0)
        is_collected = tl.max(tl.load(counts_ptr + of_row, mask=exists, other=0), 0) <= FRONT
        # What is looked at: the row, or what was put together of it.
        row_ptr = scaled_ptr + row.to(tl.int64) * vocab_size
        size = vocab_size
        if is_collected:
            row_ptr = fronts_ptr + row.to(tl.int64) * num_chunks * FRONT
            size = num_chunks * FRONT
        weights = tl.load(weights_ptr + of_row, mask=exists, other=0.0)
        total = weight_of_chunks(peaks, weights, largest)
        if (top_k > 0) & (top_k < vocab_size):
            bound = tl.maximum(bound, reached_by(peaks, chunks, num_chunks, top_k, PEAKS))
            bound = threshold(row_ptr, size, bound, largest, top_k.to(tl.float32), largest, False, BLOCK)
            if top_p < 1:
                total = total_weight(row_ptr, size, bound, largest, BLOCK).to(tl.float32)
        if top_p < 1:
            bound = tl.maximum(bound, too_light(largest, top_p, total, vocab_size))
            bound = threshold(row_ptr, size, bound, largest, top_p * total, largest, True, BLOCK)
        bound = tl.maximum(bound, largest + tl.load(floats_ptr + 2 * num_rows + row))
        seed, draw = tl.load(keys_ptr + row), tl.load(keys_ptr + num_rows + row)
        point = uniform(seed, draw) * total_weight(row_ptr, size, bound, largest, BLOCK)
        start, below = 0, tl.full((), 0.0, tl.float64)
        weight = tl.sum(weights_at(row_ptr, 0, size, bound, largest, BLOCK), 0).to(tl.float64)
        # As the sums were added up above, so that one of them goes beyond the point.
        while (below + weight <= point) & (start + BLOCK < size):
            below += weight
            start += BLOCK
            weight = tl.sum(weights_at(row_ptr, start, size, bound, largest, BLOCK), 0).to(tl.float64)
        weights = weights_at(row_ptr, start, size, bound, largest, BLOCK)
        beyond = (below + tl.cumsum(weights, 0).to(tl.float64) > point) & (weights > 0)
        places = start + tl.arange(0, BLOCK)
        found = tl.min(tl.where(beyond, places, size), 0)
        # The last one, should this order of the sum fall short.
        token = tl.where(found < size, found, tl.max(tl.where(weights > 0, places, -1), 0))
        if is_collected:
            token = tl.load(tokens_ptr + row.to(tl.int64) * num_chunks * FRONT + token)
    tl.store(token_ids_ptr + row, token)
