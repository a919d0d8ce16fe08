"""Matrix products with quantised weights, and the rounding of activations that some need.

In all of them the weights are the left operand: a matrix instruction has 64 rows or more on new GPUs, which a
layer's outputs fill even where there is one token.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.kernels.reference import quantized as reference
from octavo.kernels.triton.arithmetic import dot

HADAMARD = tl.constexpr(reference.HADAMARD)


@triton.jit
def sums_of_neighbours(x, DISTANCE: tl.constexpr):
    """x: [rows, n]. Of elements that far apart their sum and their difference, in their places."""
    pairs = tl.reshape(x, (x.shape[0], x.shape[1] // (2 * DISTANCE), 2, DISTANCE))
    first, second = tl.split(tl.permute(pairs, (0, 1, 3, 2)))
    pairs = tl.permute(tl.join(first + second, first - second), (0, 1, 3, 2))
    return tl.reshape(pairs, x.shape)


@triton.jit
def sums_across_threads(x, at, DISTANCE: tl.constexpr):
    """The same of elements that other threads of a warp have. at: their places in a row."""
    other = tl.gather(x, tl.broadcast_to((at ^ DISTANCE)[None, :], x.shape), 1)
    return tl.where((at & DISTANCE == 0)[None, :], x + other, other - x)


@triton.jit
def hadamard(x, BLOCK: tl.constexpr):
    """x: float32 [BLOCK]. As `reference.quantized.hadamard`, sums in the same order."""
    at = tl.arange(0, HADAMARD)
    bent = (at & (at >> 1)) ^ ((at >> 2) & (at >> 3)) ^ ((at >> 4) & (at >> 5))
    sums = tl.reshape(x, (BLOCK // HADAMARD, HADAMARD)) * (1 - 2 * (bent & 1)).to(tl.float32)[None, :]
    sums = sums_of_neighbours(sums_of_neighbours(sums_of_neighbours(sums, 1), 2), 4)
    for stage in tl.static_range(3, 6):
        sums = sums_across_threads(sums, at, 1 << stage)
    return tl.reshape(sums, (BLOCK,)) * 0.125


@triton.jit
def rounded_next(x_row, start, n, TRANSFORMED: tl.constexpr, BLOCK: tl.constexpr):
    """A block of a row as it is to be rounded."""
    at = start + tl.arange(0, BLOCK)
    x = tl.load(x_row + at, mask=at < n, other=0.0).to(tl.float32)
    return hadamard(x, BLOCK) if TRANSFORMED else x


@triton.jit
def quantize_rows_kernel(
    x_ptr,
    q_ptr,
    scale_ptr,
    n,
    stride,
    LARGEST: tl.constexpr,
    LEAST: tl.constexpr,
    TRANSFORMED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program rounds a row, x to q: once through it for its largest, once more, from the cache, to round.

    LEAST: the smallest normal number of a float8 with three bits behind the first; 0 for integers.
    """
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    x_row = x_ptr + row.to(tl.int64) * stride
    largest = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        largest = tl.maximum(largest, tl.abs(rounded_next(x_row, start, n, TRANSFORMED, BLOCK)))
    scale = tl.div_rn(tl.max(largest, 0), LARGEST)
    scale = tl.where(scale > 2.0**-24, scale, 1.0)
    tl.store(scale_ptr + row, scale)
    inverse = tl.div_rn(1.0, scale)
    for start in range(0, n, BLOCK):
        at = start + columns
        scaled = rounded_next(x_row, start, n, TRANSFORMED, BLOCK) * inverse
        # Rounded here, to even, as backends differ in how they convert: the sum with so large a number has no
        # bits left for what is too fine.
        if LEAST > 0:
            power = (scaled.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
            coarse = tl.maximum(power, LEAST) * (1.5 * 2.0**20)
        else:
            coarse = 1.5 * 2.0**23
        scaled = (scaled + coarse) - coarse
        scaled = tl.minimum(tl.maximum(scaled, -LARGEST), LARGEST)
        tl.store(q_ptr + row.to(tl.int64) * n + at, scaled.to(q_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def place(program, num_token_tiles, num_output_tiles):
    """The tile of a program: all outputs for a band of eight tiles of tokens, then for the next band, so that
    what runs at once shares weights and activations in the second-level cache."""
    band = program // (8 * num_output_tiles)
    tiles = tl.minimum(num_token_tiles - 8 * band, 8)
    within = program % (8 * num_output_tiles)
    return 8 * band + within % tiles, within // tiles


@triton.jit
def share_of_split(n, INPUTS: tl.constexpr):
    """Where the inputs of this program begin and end, of all programs along axis 1."""
    tiles = tl.cdiv(tl.cdiv(n, INPUTS), tl.num_programs(1))
    begin = tl.program_id(1) * tiles * INPUTS
    return begin, tl.minimum(begin + tiles * INPUTS, n)


@triton.jit
def store_product(product, out_ptr, bias_ptr, tokens, outputs, num_tokens, m, has_bias, SPLIT: tl.constexpr):
    """product: float32 [outputs, tokens]. Split, the sum is not yet whole: biases come with the rest."""
    mask = (outputs < m)[:, None] & (tokens < num_tokens)[None, :]
    rows = tokens.to(tl.int64)
    if SPLIT:
        rows += tl.program_id(1).to(tl.int64) * num_tokens
    elif has_bias:
        product += tl.load(bias_ptr + outputs, mask=outputs < m, other=0.0).to(tl.float32)[:, None]
    at = out_ptr + rows[None, :] * m + outputs[:, None]
    tl.store(at, product.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["num_splits", "has_bias"])
def add_splits_kernel(partial_ptr, bias_ptr, out_ptr, size, m, num_splits, has_bias, BLOCK: tl.constexpr):
    """partial: float32 [num_splits, size] → out [size], always added up in the same order."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for split in range(num_splits):
        total += tl.load(partial_ptr + split * size + at, mask=at < size, other=0.0)
    if has_bias:
        total += tl.load(bias_ptr + at % m, mask=at < size, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=at < size)


@triton.jit(do_not_specialize=["num_tokens", "has_bias"])
def rounded_product_kernel(
    x_ptr,
    x_scale_ptr,
    weight_ptr,
    scale_ptr,
    bias_ptr,
    out_ptr,
    num_tokens,
    has_bias,
    m,
    n,
    GROUP: tl.constexpr,
    INTEGER: tl.constexpr,
    SPLIT: tl.constexpr,
    TOKENS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """Both operands of 8 bits: int8, added up as int32, or float8. GROUP: 0 for one scale for each output,
    else INPUTS divides it."""
    token_tile, output_tile = place(tl.program_id(0), tl.cdiv(num_tokens, TOKENS), tl.cdiv(m, OUTPUTS))
    tokens = token_tile * TOKENS + tl.arange(0, TOKENS)
    outputs = output_tile * OUTPUTS + tl.arange(0, OUTPUTS)
    # Rows beyond the last are the last one again: they need no mask, and are not stored.
    x_rows = x_ptr + tl.minimum(tokens, num_tokens - 1).to(tl.int64)[None, :] * n
    last = tl.minimum(outputs, m - 1).to(tl.int64)
    weight_rows = weight_ptr + last[:, None] * n
    begin, end = share_of_split(n, INPUTS)
    inputs = tl.arange(0, INPUTS)
    if INTEGER and GROUP == 0:
        acc = tl.zeros((OUTPUTS, TOKENS), tl.int32)
    else:
        acc = tl.zeros((OUTPUTS, TOKENS), tl.float32)
    for start in range(begin, end, INPUTS):
        at = start + inputs
        weight = tl.load(weight_rows + at[None, :], mask=(at < end)[None, :], other=0.0)
        x = tl.load(x_rows + at[:, None], mask=(at < end)[:, None], other=0.0)
        if GROUP > 0:
            scale = tl.load(scale_ptr + last * (n // GROUP) + start // GROUP).to(tl.float32)
            acc += tl.dot(weight, x, out_dtype=tl.int32).to(tl.float32) * scale[:, None]
        elif INTEGER:
            acc = tl.dot(weight, x, acc, out_dtype=tl.int32)
        else:
            # Hopper adds float8 products up with 14 bits: not for longer than this.
            acc = tl.dot(weight, x, acc, max_num_imprecise_acc=INPUTS)
    product = acc.to(tl.float32) * tl.load(x_scale_ptr + tokens, mask=tokens < num_tokens, other=0.0)[None, :]
    if GROUP == 0:
        product *= tl.load(scale_ptr + last).to(tl.float32)[:, None]
    store_product(product, out_ptr, bias_ptr, tokens, outputs, num_tokens, m, has_bias, SPLIT)


@triton.jit(do_not_specialize=["num_tokens", "has_bias"])
def fp8_product_kernel(
    x_ptr,
    weight_ptr,
    scale_ptr,
    bias_ptr,
    out_ptr,
    num_tokens,
    has_bias,
    m,
    n,
    stride,
    SPLIT: tl.constexpr,
    TOKENS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """Weights of float8 (e4m3fn) as bytes, for GPUs that do not know them: widened in registers."""
    token_tile, output_tile = place(tl.program_id(0), tl.cdiv(num_tokens, TOKENS), tl.cdiv(m, OUTPUTS))
    tokens = token_tile * TOKENS + tl.arange(0, TOKENS)
    outputs = output_tile * OUTPUTS + tl.arange(0, OUTPUTS)
    x_rows = x_ptr + tl.minimum(tokens, num_tokens - 1).to(tl.int64)[None, :] * stride
    last = tl.minimum(outputs, m - 1).to(tl.int64)
    weight_rows = weight_ptr + last[:, None] * n
    begin, end = share_of_split(n, INPUTS)
    inputs = tl.arange(0, INPUTS)
    acc = tl.zeros((OUTPUTS, TOKENS), tl.float32)
    for start in range(begin, end, INPUTS):
        at = start + inputs
        bits = tl.load(weight_rows + at[None, :], mask=(at < end)[None, :], other=0).to(tl.uint32)
        x = tl.load(x_rows + at[:, None], mask=(at < end)[:, None], other=0.0)
        # As the top of a float32 the bits are the number divided by 2^(127 - 7), subnormal ones too.
        weight = ((bits & 128) << 24 | (bits & 127) << 20).to(tl.float32, bitcast=True) * 2.0**120
        acc += dot(weight.to(x.dtype), x)
    product = acc * tl.load(scale_ptr + last)[:, None]
    store_product(product, out_ptr, bias_ptr, tokens, outputs, num_tokens, m, has_bias, SPLIT)


@triton.jit
def unpack(words, HALF: tl.constexpr):
    """words: uint32 [m, k], eight weights each → 16 + q of type HALF, [m, 8 · k].

    Below the top of a float that is 16, q makes 16 + q. Two at once, in the halves of a register, and with no
    conversion of integers, of which a GPU does only a quarter as many as of other instructions.
    """
    FLOAT16: tl.constexpr = HALF.fp_mantissa_width == 10
    MASK: tl.constexpr = 0x03C003C0 if FLOAT16 else 0x00780078
    SIXTEEN: tl.constexpr = 0x4C004C00 if FLOAT16 else 0x41804180
    # To just below the exponent, whose lowest bit is bit 10 or bit 7 of its half.
    UP: tl.constexpr = 6 if FLOAT16 else 3
    first, third, fourth = words << UP, words >> (8 - UP), words >> (12 - UP)
    second = words << (UP - 4) if FLOAT16 else words >> (4 - UP)
    pairs = tl.join(tl.join(first, third), tl.join(second, fourth)) & MASK | SIXTEEN
    pairs = tl.reshape(pairs, (words.shape[0], 4 * words.shape[1]))
    halves = tl.join(pairs.to(tl.uint16), (pairs >> 16).to(tl.uint16))
    return tl.reshape(halves, (words.shape[0], 8 * words.shape[1])).to(HALF, bitcast=True)


@triton.jit
def exist(places, start, end, PLACES: tl.constexpr, GROUP: tl.constexpr):
    """Which places of a tile lie before `end`, PLACES to a group: all of a group or none, as the compiler
    sees, so that loads stay wide. Tiles within a group are whole."""
    return (start // GROUP + places // PLACES < end // GROUP) | (places.shape[0] <= PLACES)


@triton.jit
def widened(
    weight_ptr,
    scale_ptr,
    rows,
    start,
    end,
    n,
    GROUP: tl.constexpr,
    INPUTS: tl.constexpr,
    HALF: tl.constexpr,
):
    """Weights of rows, [len(rows), INPUTS], float32, from column `start` on; 0 from `end` on.

    They are scale · (16 + q) + rest, where rest is minimum - 16 · scale. scale_ptr: int32, pairs of float16,
    scale and minimum: what is copied to shared memory ahead of its use has four bytes at least.
    """
    GROUPS: tl.constexpr = INPUTS // GROUP if INPUTS > GROUP else 1
    word = tl.arange(0, INPUTS // 8)
    words = tl.load(
        weight_ptr + rows[:, None] * (n // 8) + (start // 8 + word)[None, :],
        mask=exist(word, start, end, GROUP // 8, GROUP)[None, :],
        other=0,
    )
    above = tl.reshape(
        unpack(words.to(tl.uint32, bitcast=True), HALF), (rows.shape[0], GROUPS, INPUTS // GROUPS)
    )
    group = start // GROUP + tl.arange(0, GROUPS)
    pairs = scale_ptr + rows[:, None] * (n // GROUP) + group[None, :]
    pair = tl.load(pairs, mask=exist(tl.arange(0, GROUPS), start, end, 1, GROUP)[None, :], other=0).to(
        tl.uint32, bitcast=True
    )
    scale = (pair & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
    minimum = (pair >> 16).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
    weight = above.to(tl.float32) * scale[:, :, None] + (minimum - 16.0 * scale)[:, :, None]
    return tl.reshape(weight, (rows.shape[0], INPUTS))


@triton.jit
def widen_int4_kernel(
    weight_ptr, scale_ptr, out_ptr, m, n, GROUP: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr
):
    """A program writes a tile of the weights, [m, n], in the type of `out`."""
    rows = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    last = tl.minimum(rows, m - 1).to(tl.int64)
    start = tl.program_id(1) * INPUTS
    HALF: tl.constexpr = tl.float16 if out_ptr.dtype.element_ty == tl.float16 else tl.bfloat16
    weight = widened(weight_ptr, scale_ptr, last, start, n, n, GROUP, INPUTS, HALF)
    columns = start + tl.arange(0, INPUTS)
    mask = (rows < m)[:, None] & (columns < n)[None, :]
    at = out_ptr + last[:, None] * n + columns[None, :]
    tl.store(at, weight.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["num_tokens", "has_bias"])
def int4_product_kernel(
    x_ptr,
    weight_ptr,
    scale_ptr,
    bias_ptr,
    out_ptr,
    num_tokens,
    has_bias,
    m,
    n,
    stride,
    GROUP: tl.constexpr,
    SPLIT: tl.constexpr,
    TOKENS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """GROUP divides INPUTS, or INPUTS GROUP. scale_ptr: as `widened` has it."""
    token_tile, output_tile = place(tl.program_id(0), tl.cdiv(num_tokens, TOKENS), tl.cdiv(m, OUTPUTS))
    tokens = token_tile * TOKENS + tl.arange(0, TOKENS)
    outputs = output_tile * OUTPUTS + tl.arange(0, OUTPUTS)
    x_rows = x_ptr + tl.minimum(tokens, num_tokens - 1).to(tl.int64)[None, :] * stride
    last = tl.minimum(outputs, m - 1).to(tl.int64)
    begin, end = share_of_split(n, INPUTS)
    inputs = tl.arange(0, INPUTS)
    HALF: tl.constexpr = tl.float16 if x_ptr.dtype.element_ty == tl.float16 else tl.bfloat16
    acc = tl.zeros((OUTPUTS, TOKENS), tl.float32)
    for start in range(begin, end, INPUTS):
        weight = widened(weight_ptr, scale_ptr, last, start, end, n, GROUP, INPUTS, HALF)
        exists = exist(inputs, start, end, GROUP, GROUP)
        x = tl.load(x_rows + (start + inputs)[:, None], mask=exists[:, None], other=0.0)
        acc += dot(weight.to(x.dtype), x)
    store_product(acc, out_ptr, bias_ptr, tokens, outputs, num_tokens, m, has_bias, SPLIT)
