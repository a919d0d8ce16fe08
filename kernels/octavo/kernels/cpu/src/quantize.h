// Rounds rows of activations to bytes, for the products of quantised weights. Symmetric: 127 stands for the largest
// magnitude of the numbers that share a scale.
#pragma once

#include <algorithm>

#include "accumulate.h"
#include "hadamard.h"
#include "quantized_layout.h"
#include "vec.h"

namespace OCTAVO_ISA {

INLINE f32x16 load_of(const float* x, int at, int k) {
    return at + 16 <= k ? load(x + at) : load_part(x + at, std::max(k - at, 0));
}

INLINE float magnitude(const float* x, int n) {
    f32x16 most = {};
    for (int i = 0; i < n; i += 16) most = max(absolute(load(x + i)), most);
    return largest(most);
}

// A row's integers, as their scale and their sum.
struct Rounded {
    float scale;
    int total;
};
// magnitude: the largest of x.
template <class Row>
INLINE Rounded round_to_bytes(const float* x, int n, float magnitude, Row* to) {
    const f32x16 inverse = splat(magnitude > 0 ? 127 / magnitude : 0);
    i32x16 total = {};
    for (int i = 0; i < n; i += 16) {
        const i32x16 q = to_nearest(load(x + i) * inverse);
        put(to + i, q);
        total += q;
    }
    return {magnitude / 127, sum(total)};
}

// Of k numbers and zeros after them; to: [int8_length(k)], which may be x. Returns the largest magnitude. next: as many
// numbers that are fetched meanwhile, or null.
INLINE float transform_row(const float* x, int k, float* to, const float* next = nullptr) {
    constexpr int VECTORS = HADAMARD / 16;
    f32x16 most[VECTORS] = {};
    for (int i = 0; i < k; i += HADAMARD) {
        f32x16 values[VECTORS];
        for (int v = 0; v < VECTORS; v++) {
            values[v] = load_of(x, i + 16 * v, k);
            if (next) prefetch(next + i + 16 * v);
        }
        hadamard(values);
        for (int v = 0; v < VECTORS; v++) {
            store(to + i + 16 * v, values[v]);
            most[v] = max(absolute(values[v]), most[v]);
        }
    }
    for (int v = 1; v < VECTORS; v++) most[0] = max(most[v], most[0]);
    return largest(most[0]);
}

// scratch: [int8_length(k)], may be x. next: see `transform_row`.
INLINE void quantize_int8(const float* x, int k, float* scratch, char* to, const float* next) {
    const int length = octavo::int8_length(k);
    auto* out = reinterpret_cast<UnsignedColumns::Row*>(to);
    const float most = transform_row(x, k, scratch, next);
    const Rounded row = round_to_bytes(scratch, length, most, out);
    *reinterpret_cast<octavo::Int8Row*>(out + length) = {row.scale, -octavo::INT8_ZERO * row.total};
}

INLINE void quantize_groups(const float* x, int k, char* out, const float* next) {
    octavo::ActivationGroup* group = reinterpret_cast<octavo::ActivationGroup*>(out);
    for (int i = 0; i < k; i += octavo::GROUP, group++) {
        const f32x16 left = load_of(x, i, k), right = load_of(x, i + 16, k);
        if (next) prefetch(next + i), prefetch(next + i + 16);
        const float magnitude = largest(max(absolute(left), absolute(right)));
        const f32x16 inverse = splat(magnitude > 0 ? 127 / magnitude : 0);
        const i32x16 first = to_nearest(left * inverse), second = to_nearest(right * inverse);
        store_bytes(group->q, first), store_bytes(group->q + 16, second);
        const int first_sum = sum(first), total = first_sum + sum(second);
        group->scale = magnitude / 127;
        group->sum = group->scale * total;
        group->correction = -8 * total;
        group->first_correction = -8 * first_sum;
    }
}

}  // namespace OCTAVO_ISA
