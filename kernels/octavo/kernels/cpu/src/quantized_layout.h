// How the quantised forms lie in memory: weights in panels of 32 rows of the matrix, unsigned bytes or fewer bits;
// activations row by row, signed bytes. Four consecutive bytes, a quad, are multiplied and added up by one
// instruction (VPDPBUSD), exactly.
//
// All functions have internal linkage: files compiled for different instruction sets include this.
#pragma once

#include "kernels.h"

namespace octavo {

static constexpr size_t whole(size_t count, size_t of) { return (count + of - 1) / of * of; }

// INT8: weights and activations in groups of 64 consecutive ones: scale · (q - 128) and scale · q. A panel is a block
// for each group: q[16 quads][32][4], then float16 scale[32]. A row of activations is q[k], k padded with zeros to whole
// groups, then an Int8Group for each; q are of 16 bits where `UnsignedColumns` takes such rows.

constexpr int INT8_ZERO = 128;

// The longer, the fewer sums of integers become floats, and the worse are outliers borne: of SmolLM2, perplexity grew
// by 0.5 % with 64, 1.0 % with 128, and 3.5 % with whole rows of activations.
constexpr int INT8_GROUP = 64;

struct Int8Group {
    float scale;
    int32_t correction;  // -INT8_ZERO times the sum of the group's integers
};

static constexpr int int8_groups(int k) { return (k + INT8_GROUP - 1) / INT8_GROUP; }
static constexpr size_t INT8_SCALES_AT = INT8_GROUP * PANEL;
static constexpr size_t INT8_BLOCK_BYTES = INT8_SCALES_AT + PANEL * sizeof(uint16_t);

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
    return panels * (form == INT8 ? int8_groups(k) * INT8_BLOCK_BYTES : groups_of(k) * block_bytes(shape_of(form)));
}

// One row of a packed matrix as floats, [k].
void unpack_quantized_row(const Linear& linear, int row, float* out);

}  // namespace octavo
