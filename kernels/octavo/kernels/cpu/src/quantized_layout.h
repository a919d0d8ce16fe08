// How the quantised forms lie in memory: weights in panels of 32 rows of the matrix, unsigned bytes or fewer bits;
// activations row by row, signed bytes. Four consecutive bytes, a quad, are multiplied and added up by one
// instruction (VPDPBUSD), exactly.
//
// All functions have internal linkage: files compiled for different instruction sets include this.
#pragma once

#include "kernels.h"

namespace octavo {

static constexpr size_t whole(size_t count, size_t of) { return (count + of - 1) / of * of; }

// INT8: rows of weights and of activations are rounded after each HADAMARD consecutive elements, padded with zeros, went
// through H of `hadamard.h`: H·w / HADAMARD = scale · (q - 128) and H·x = scale · q. As Hᵀ·H = HADAMARD, products of such
// rows are those of the rows themselves. One scale for a whole row costs SmolLM2 3 % of perplexity without H, with it
// 0.6 %, and with a scale for every 64 but no H 0.8 %. A panel is q[k / 4 quads][32][4], then float
// scale[32]. A row of activations is q[k], then an Int8Row; q are of 16 bits where `UnsignedColumns` takes such rows.

constexpr int INT8_ZERO = 128;
constexpr int HADAMARD = 64;

struct Int8Row {
    float scale;
    int32_t correction;  // -INT8_ZERO times the sum of the row's integers
};

// Of element i, by the last six bits of its number: a bent function.
static constexpr int hadamard_sign(int i) { return ((i & i >> 1) ^ (i >> 2 & i >> 3) ^ (i >> 4 & i >> 5)) & 1 ? -1 : 1; }

static constexpr int int8_length(int k) { return int(whole(k, HADAMARD)); }
static constexpr size_t int8_scales_at(int k) { return size_t(int8_length(k)) * PANEL; }
static constexpr size_t int8_panel_bytes(int k) { return int8_scales_at(k) + PANEL * sizeof(float); }

// GROUP…: weights in groups of 32 or 16 consecutive ones: scale · q + minimum or, centred,
// scale · (q - 2^(bits - 1)). A panel is a block for each 32 of k: `bits` vectors of 64 bytes for the first 16 rows and as many for the others, then
// float16 scale[32 / length][32] and, if any, float16 minimum[32]. The vectors are
//   8 bits: q[8 quads][16][4]
//   fewer: the low four bits of quads 0 to 3 in the low halves of bytes and those of quads 4 to 7 in the high halves,
//   5 bits: then the fifth bit of quad i as bit i of one vector's bytes,
//   6 bits: then the highest two bits of quad 4j + i as bits 2i and 2i + 1 of vector j's.

constexpr int GROUP = 32;

struct GroupShape {
    int bits;
    int length;
    bool minimum;
};

static constexpr GroupShape shape_of(int form) {
    switch (form) {
        case GROUP4:
            return {4, 32, true};
        case GROUP4_CENTRED:
            return {4, 32, false};
        case GROUP5:
            return {5, 32, true};
        case GROUP5_CENTRED:
            return {5, 32, false};
        case GROUP6_CENTRED16:
            return {6, 16, false};
        default:
            return {8, 32, false};
    }
}

static constexpr int groups_of(int k) { return (k + GROUP - 1) / GROUP; }
static constexpr size_t scales_at(GroupShape shape) { return size_t(shape.bits) * GROUP * PANEL / 8; }
static constexpr size_t minima_at(GroupShape shape) {
    return scales_at(shape) + GROUP / shape.length * PANEL * sizeof(uint16_t);
}
static constexpr size_t block_bytes(GroupShape shape) {
    return minima_at(shape) + (shape.minimum ? PANEL * sizeof(uint16_t) : 0);
}

// A row of activations is one of these for each 32.
struct ActivationGroup {
    int8_t q[GROUP];
    float scale;
    float sum;                 // of the activations as they are after rounding
    int32_t correction;        // -8 times the sum of q: half the range of four bits
    int32_t first_correction;  // the same of the first 16
};
static_assert(sizeof(ActivationGroup) == 48, "three quarters of a cache line");

// Of a packed matrix.
static constexpr size_t quantized_bytes(int form, int n, int k) {
    const size_t panels = (size_t(n) + PANEL - 1) / PANEL;
    return panels * (form == INT8 ? int8_panel_bytes(k) : groups_of(k) * block_bytes(shape_of(form)));
}

// One row of a packed matrix as floats, [k].
void unpack_quantized_row(const Linear& linear, int row, float* out);

}  // namespace octavo
