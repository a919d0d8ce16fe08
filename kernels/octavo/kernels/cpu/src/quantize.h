// Rounds rows of activations to bytes, for the products of quantised weights. Symmetric: 127 stands for the largest
// magnitude of the numbers that share a scale.
#pragma once

#include <algorithm>

#include "accumulate.h"
#include "quantized_layout.h"
#include "vec.h"

namespace OCTAVO_ISA {

INLINE f32x16 load_of(const float* x, int at, int k) {
    return at + 16 <= k ? load(x + at) : load_part(x + at, std::max(k - at, 0));
}

INLINE void quantize_int8(const float* x, int k, char* to) {
    constexpr int VECTORS = octavo::INT8_GROUP / 16;
    const int groups = octavo::int8_groups(k);
    auto* out = reinterpret_cast<UnsignedColumns::Row*>(to);
    auto* group = reinterpret_cast<octavo::Int8Group*>(out + groups * octavo::INT8_GROUP);
    for (int g = 0; g < groups; g++, group++) {
        f32x16 values[VECTORS], most = {};
        for (int i = 0; i < VECTORS; i++) {
            values[i] = load_of(x, g * octavo::INT8_GROUP + 16 * i, k);
            most = max(absolute(values[i]), most);
        }
        const float magnitude = largest(most);
        const f32x16 inverse = splat(magnitude > 0 ? 127 / magnitude : 0);
        i32x16 total = {};
        for (int i = 0; i < VECTORS; i++, out += 16) {
            const i32x16 q = to_nearest(values[i] * inverse);
            put(out, q);
            total += q;
        }
        *group = {magnitude / 127, -octavo::INT8_ZERO * sum(total)};
    }
}

INLINE void quantize_groups(const float* x, int k, char* out) {
    octavo::ActivationGroup* group = reinterpret_cast<octavo::ActivationGroup*>(out);
    for (int i = 0; i < k; i += octavo::GROUP, group++) {
        const f32x16 left = load_of(x, i, k), right = load_of(x, i + 16, k);
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
