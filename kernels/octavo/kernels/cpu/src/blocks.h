// How keys and values lie in a block, and how they get there.
//
// Of each key-value head a block holds keys as [head_dim / p][16 tokens][p] and then values as
// [16 / p tokens][head_dim][p], with p = 2 for bfloat16 and bytes and 1 for float32: products of attention then read
// whole vectors, as products of weights do.
#pragma once

#include "accumulate.h"
#include "kernels.h"
#include "vec.h"

namespace OCTAVO_ISA {

using octavo::BLOCK;
using octavo::CHUNK;

// Keys and values in the type that they are computed in.
template <class K>
struct PlainBlocks {
    using Kind = K;
    using Element = typename Kind::Element;
    static constexpr int P = Kind::PER_STEP;
    static constexpr bool ARE_BYTES = false;

    static constexpr size_t head_bytes(int dim) { return size_t(2) * BLOCK * dim * sizeof(Element); }

    static void put_key(char* head, int dim, int slot, const float* key) {
        alignas(64) Element narrow[octavo::MAX_HEAD_DIM];
        for (int d = 0; d < dim; d += 16) Kind::put(narrow + d, load(key + d));
        Element* to = reinterpret_cast<Element*>(head) + slot * P;
        for (int d = 0; d < dim; d += P) memcpy(to + d * BLOCK, narrow + d, P * sizeof(Element));
    }

    static void put_value(char* head, int dim, int slot, const float* value) {
        alignas(64) Element narrow[octavo::MAX_HEAD_DIM];
        for (int d = 0; d < dim; d += 16) Kind::put(narrow + d, load(value + d));
        Element* to = reinterpret_cast<Element*>(head) + (BLOCK + slot / P * P) * dim + slot % P;
        for (int d = 0; d < dim; d++) to[d * P] = narrow[d];
    }
};

// Keys and values as signed bytes, each token's head with a scale: float[16] of keys and float[16] of values at the
// end. They are computed as bfloat16, which has room for every byte; scales go into scores and weights.
struct ByteBlocks {
    using Kind = Pair;
    static constexpr bool ARE_BYTES = true;

    static constexpr size_t head_bytes(int dim) { return size_t(2) * BLOCK * dim + 2 * BLOCK * sizeof(float); }
    static float* scales(char* head, int dim) { return reinterpret_cast<float*>(head + 2 * BLOCK * dim); }

    static float to_bytes(const float* from, int dim, int8_t* to) {
        f32x16 most = {};
        for (int d = 0; d < dim; d += 16) most = max(absolute(load(from + d)), most);
        const float magnitude = largest(most);
        const f32x16 inverse = splat(magnitude > 0 ? 127 / magnitude : 0);
        for (int d = 0; d < dim; d += 16) store_bytes(to + d, to_nearest(load(from + d) * inverse));
        return magnitude / 127;
    }

    static void put_key(char* head, int dim, int slot, const float* key) {
        alignas(64) int8_t bytes[octavo::MAX_HEAD_DIM];
        scales(head, dim)[slot] = to_bytes(key, dim, bytes);
        for (int d = 0; d < dim; d += 2) memcpy(head + d * BLOCK + slot * 2, bytes + d, 2);
    }

    static void put_value(char* head, int dim, int slot, const float* value) {
        alignas(64) int8_t bytes[octavo::MAX_HEAD_DIM];
        scales(head, dim)[BLOCK + slot] = to_bytes(value, dim, bytes);
        char* to = head + (BLOCK + slot / 2 * 2) * dim + slot % 2;
        for (int d = 0; d < dim; d++) to[d * 2] = bytes[d];
    }

    // A head's keys and values as `PlainBlocks<Pair>` have them.
    static void widen(const char* head, int dim, uint16_t* to) {
        for (int i = 0; i < 2 * BLOCK * dim; i += 16)
            store_bf16(to + i, to_float(__builtin_convertvector(load_as<i8x16>(head + i), i32x16)));
    }
};

}  // namespace OCTAVO_ISA
