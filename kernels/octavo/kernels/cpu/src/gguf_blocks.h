// The blocks that GGUF files store quantised rows in, taken apart into the integers and scales of our own forms
// without loss but the rounding of scales. Layouts: ggml-common.h and ggml-quants.c of llama.cpp.
//
// Functions have internal linkage: see `quantized_layout.h`.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace octavo {

enum GgmlType : int32_t {
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
};

// One row: integers, and for each group a scale and a minimum, so that weight = scale · q + minimum. In the centred
// forms the minimum is not kept: it is the scale times minus half the range of q.
struct QuantizedRow {
    uint8_t* q;  // [k]
    float* scale;
    float* minimum;
};

static inline float half_to_float(const uint8_t* from) {
    uint16_t half;
    memcpy(&half, from, sizeof half);
    const int exponent = half >> 10 & 31;
    const float mantissa = half & 1023;
    const float value = exponent == 31  ? (mantissa ? NAN : INFINITY)
                        : exponent == 0 ? std::ldexp(mantissa, -24)
                                        : std::ldexp(mantissa + 1024, exponent - 25);
    return half & 0x8000 ? -value : value;
}

// Six bits each: eight scales and eight minima of 32 weights each, in twelve bytes.
static inline void take_six_bits(const uint8_t* packed, int group, int& scale, int& minimum) {
    if (group < 4) {
        scale = packed[group] & 63;
        minimum = packed[group + 4] & 63;
    } else {
        scale = (packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4;
        minimum = (packed[group + 4] >> 4) | (packed[group] >> 6) << 4;
    }
}

// Of a block of 32: nibbles, and a fifth bit if there are such.
static inline void take_nibbles(const uint8_t* nibbles, const uint8_t* fifth, uint8_t* q) {
    uint32_t high = 0;
    if (fifth) memcpy(&high, fifth, sizeof high);
    for (int i = 0; i < 16; i++) {
        q[i] = (nibbles[i] & 15) | (high >> i & 1) << 4;
        q[i + 16] = nibbles[i] >> 4 | (high >> (i + 16) & 1) << 4;
    }
}

static inline void take_block_of_32(GgmlType type, const uint8_t* b, uint8_t* q, float& scale, float& minimum) {
    scale = half_to_float(b);
    switch (type) {
        case Q4_0:
            take_nibbles(b + 2, nullptr, q);
            minimum = -8 * scale;
            return;
        case Q4_1:
            take_nibbles(b + 4, nullptr, q);
            minimum = half_to_float(b + 2);
            return;
        case Q5_0:
            take_nibbles(b + 6, b + 2, q);
            minimum = -16 * scale;
            return;
        case Q5_1:
            take_nibbles(b + 8, b + 4, q);
            minimum = half_to_float(b + 2);
            return;
        default:  // Q8_0
            for (int i = 0; i < 32; i++) q[i] = b[2 + i] ^ 128;
            minimum = -128 * scale;
    }
}

// Q4_K and Q5_K.
static inline void take_block_of_256(GgmlType type, const uint8_t* b, uint8_t* q, float* scale, float* minimum) {
    const float scales = half_to_float(b), minima = half_to_float(b + 2);
    const uint8_t* fifth = type == Q5_K ? b + 16 : nullptr;
    const uint8_t* nibbles = b + (fifth ? 48 : 16);
    for (int group = 0; group < 8; group++) {
        int s, m;
        take_six_bits(b + 4, group, s, m);
        scale[group] = scales * s;
        minimum[group] = -minima * m;
        for (int i = 0; i < 32; i++) {
            const int low = nibbles[group / 2 * 32 + i] >> (group % 2 * 4) & 15;
            q[group * 32 + i] = low | (fifth ? (fifth[i] >> group & 1) << 4 : 0);
        }
    }
}

static inline void take_q6_k(const uint8_t* b, uint8_t* q, float* scale, float* minimum) {
    const uint8_t *low = b, *high = b + 128;
    const int8_t* scales = reinterpret_cast<const int8_t*>(b + 192);
    const float all = half_to_float(b + 208);
    for (int i = 0; i < 256; i++) {
        const int half = i / 128, quarter = i % 128 / 32, at = i % 32;
        const int four = low[half * 64 + quarter % 2 * 32 + at] >> (quarter / 2 * 4) & 15;
        q[i] = four | (high[half * 32 + at] >> (quarter * 2) & 3) << 4;
    }
    for (int group = 0; group < 16; group++) {
        scale[group] = all * scales[group];
        minimum[group] = -32 * scale[group];
    }
}

// Bytes of a block and weights in it; no bytes if the type is none of the above.
struct GgmlBlock {
    int bytes;
    int length;
};

static inline GgmlBlock block_of(int type) {
    switch (type) {
        case Q4_0:
            return {18, 32};
        case Q4_1:
            return {20, 32};
        case Q5_0:
            return {22, 32};
        case Q5_1:
            return {24, 32};
        case Q8_0:
            return {34, 32};
        case Q4_K:
            return {144, 256};
        case Q5_K:
            return {176, 256};
        case Q6_K:
            return {210, 256};
        default:
            return {0, 1};
    }
}

// The form that holds a type as it is, or -1.
static inline int form_of(int type) {
    switch (type) {
        case Q4_0:
            return GROUP4_CENTRED;
        case Q4_1:
        case Q4_K:
            return GROUP4;
        case Q5_0:
            return GROUP5_CENTRED;
        case Q5_1:
        case Q5_K:
            return GROUP5;
        case Q6_K:
            return GROUP6_CENTRED16;
        case Q8_0:
            return GROUP8_CENTRED;
        default:
            return -1;
    }
}

// A row of k weights, a multiple of the type's block.
static inline void take_row(int type, const uint8_t* blocks, int k, const QuantizedRow& row) {
    const GgmlBlock block = block_of(type);
    for (int i = 0; i < k; i += block.length, blocks += block.bytes) {
        uint8_t* q = row.q + i;
        if (type == Q6_K)
            take_q6_k(blocks, q, row.scale + i / 16, row.minimum + i / 16);
        else if (block.length == 256)
            take_block_of_256(GgmlType(type), blocks, q, row.scale + i / 32, row.minimum + i / 32);
        else
            take_block_of_32(GgmlType(type), blocks, q, row.scale[i / 32], row.minimum[i / 32]);
    }
}

}  // namespace octavo
