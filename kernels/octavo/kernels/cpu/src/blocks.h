// How keys and values lie in a block, and how they get there.
//
// Of each key-value head a block holds keys as [head_dim / p][16 tokens][p] and then values as
// [16 / p tokens][head_dim][p], with p = 1 for float32, 2 for bfloat16 and 4 for bytes: products of attention then read
// whole vectors, as products of weights do.
#pragma once

#include "accumulate.h"
#include "kernels.h"
#include "quantize.h"
#include "vec.h"

namespace OCTAVO_ISA {

using octavo::BLOCK;
using octavo::CHUNK;

// to[i · P] = from[i] for 16 elements, of which P are in 32 bits; others stay as they are. to: of the first of P.
template <class Element>
INLINE void put_among(Element* to, int slot, const Element* from) {
    constexpr int P = sizeof(float) / sizeof(Element);
#if defined(__AVX512BW__)
    if constexpr (P == 1) {
        store_as(to, load_as<u32x16>(from));
    } else if constexpr (P == 2) {
        const __m512i values = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
        _mm512_mask_storeu_epi16(to, 0x55555555u << slot, _mm512_slli_epi32(values, 16 * slot));
    } else {
        const __m512i values = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
        _mm512_mask_storeu_epi8(to, 0x1111111111111111u << slot, _mm512_slli_epi32(values, 8 * slot));
    }
#else
    for (int i = 0; i < 16; i++) to[i * P + slot] = from[i];
#endif
}

// What a row's sums are multiplied by to become scores, and what they begin with: of bytes, what counting keys from
// ByteBlocks::ZERO adds.
struct QueryScale {
    float factor;
    int32_t start;
};

// Keys and values in the type that they are computed in.
template <class K>
struct PlainBlocks {
    using Kind = K;
    using KeyKind = K;
    using ValueKind = K;
    using Element = typename Kind::Column;
    static constexpr int P = Kind::PER_STEP;
    static constexpr int WEIGHT_ROWS = 1;
    static constexpr bool ARE_BYTES = false;

    static constexpr size_t head_bytes(int dim) { return size_t(2) * BLOCK * dim * sizeof(Element); }

    // A token's query head, between `store_token` and attention.
    static constexpr size_t query_bytes(int dim) { return dim * sizeof(typename Kind::Row); }
    static void put_query(char* to, int dim, const float* query) {
        for (int d = 0; d < dim; d += 16) Kind::put(reinterpret_cast<typename Kind::Row*>(to) + d, load(query + d));
    }
    static QueryScale query_scale(const char*, int) { return {1, 0}; }

    static void put_key(char* head, int dim, int slot, const float* key) {
        alignas(64) Element narrow[octavo::MAX_HEAD_DIM];
        for (int d = 0; d < dim; d += 16) Kind::put_column(narrow + d, load(key + d));
        Element* to = reinterpret_cast<Element*>(head) + slot * P;
        for (int d = 0; d < dim; d += P) memcpy(to + d * BLOCK, narrow + d, P * sizeof(Element));
    }

    static void put_value(char* head, int dim, int slot, const float* value) {
        alignas(64) Element narrow[octavo::MAX_HEAD_DIM];
        for (int d = 0; d < dim; d += 16) Kind::put_column(narrow + d, load(value + d));
        Element* to = reinterpret_cast<Element*>(head) + (BLOCK + slot / P * P) * dim;
        for (int d = 0; d < dim; d += 16) put_among(to + d * P, slot % P, narrow + d);
    }
};

// Keys and values in bytes, each token's head with a scale: float[16] of keys and float[16] of values at the end. Keys
// are unsigned, counted from 128. They are multiplied as bytes, exactly: with queries rounded to bytes, and with
// weights of 16 bits, as a row of their upper and one of their lower bytes, or of 15.
struct ByteBlocks {
    using KeyKind = UnsignedColumns;
    using ValueKind = SignedColumns;
    using Element = uint8_t;
    static constexpr int P = 4;
    static constexpr int ZERO = 128;
    // Where rows are of 16 bits, a weight has the 15 that a signed number leaves.
    static constexpr int WEIGHT_ROWS = sizeof(ValueKind::Row) == 1 ? 2 : 1;
    static constexpr int LARGEST_WEIGHT = WEIGHT_ROWS == 2 ? 65535 : 32767;
    static constexpr bool ARE_BYTES = true;

    static constexpr size_t head_bytes(int dim) { return size_t(2) * BLOCK * dim + 2 * BLOCK * sizeof(float); }
    static float* scales(char* head, int dim) { return reinterpret_cast<float*>(head + 2 * BLOCK * dim); }
    static const float* scales(const char* head, int dim) {
        return reinterpret_cast<const float*>(head + 2 * BLOCK * dim);
    }

    static constexpr size_t query_bytes(int dim) { return dim * sizeof(KeyKind::Row) + sizeof(QueryScale); }
    static void put_query(char* to, int dim, const float* query) {
        const Rounded rounded = round_to_bytes(query, dim, magnitude(query, dim), reinterpret_cast<KeyKind::Row*>(to));
        const QueryScale scale = {rounded.scale, -ZERO * rounded.total};
        memcpy(to + dim * sizeof(KeyKind::Row), &scale, sizeof scale);
    }
    static QueryScale query_scale(const char* query, int dim) {
        return load_as<QueryScale>(query + dim * sizeof(KeyKind::Row));
    }

    static void put_key(char* head, int dim, int slot, const float* key) {
        alignas(64) int8_t bytes[octavo::MAX_HEAD_DIM];
        scales(head, dim)[slot] = round_to_bytes(key, dim, magnitude(key, dim), bytes).scale;
        for (int d = 0; d < dim; d++) bytes[d] ^= ZERO;
        for (int d = 0; d < dim; d += P) memcpy(head + d * BLOCK + slot * P, bytes + d, P);
    }

    static void put_value(char* head, int dim, int slot, const float* value) {
        alignas(64) int8_t bytes[octavo::MAX_HEAD_DIM];
        scales(head, dim)[BLOCK + slot] = round_to_bytes(value, dim, magnitude(value, dim), bytes).scale;
        int8_t* to = reinterpret_cast<int8_t*>(head) + (BLOCK + slot / P * P) * dim;
        for (int d = 0; d < dim; d += 16) put_among(to + d * P, slot % P, bytes + d);
    }
};

}  // namespace OCTAVO_ISA
