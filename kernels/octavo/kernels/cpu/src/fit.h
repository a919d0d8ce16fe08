// Chooses integers, scales and minima for float weights.
#pragma once

#include <cmath>

#include "vec.h"

namespace OCTAVO_ISA {

// float16 and back: what the scales are stored as.
INLINE uint16_t to_half(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return 0x7e00;              // NaN
    if (magnitude >= 0x477ff000) return sign | 0x7c00;      // rounds to infinity
    if (magnitude < 0x38800000) {                           // subnormal: the sum leaves whole multiples of 2⁻²⁴
        float shifted;
        memcpy(&shifted, &magnitude, sizeof shifted);
        shifted += 0.5f;
        memcpy(&bits, &shifted, sizeof bits);
        return sign | (bits - 0x3f000000);
    }
    return sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
}

INLINE float rounded_to_half(float x) {
    uint16_t halves[16] = {to_half(x)};
    return load_f16(halves)[0];
}

INLINE f32x16 clamp(f32x16 v, float lowest, float highest) { return min(max(v, splat(lowest)), splat(highest)); }

INLINE float smallest(f32x16 v) { return -largest(-v); }

// A group's weights, in as many vectors as it takes.
template <int VECTORS>
using Weights = f32x16[VECTORS];

// weight ≈ scale · (q - 2^(bits - 1)).
template <int VECTORS>
INLINE float fit_centred(const Weights<VECTORS>& x, int bits, uint8_t* q) {
    f32x16 most = absolute(x[0]);
    for (int i = 1; i < VECTORS; i++) most = max(most, absolute(x[i]));
    const int zero = 1 << (bits - 1);
    const float scale = rounded_to_half(largest(most) / (zero - 1));
    const float inverse = scale > 0 ? 1 / scale : 0;
    for (int i = 0; i < VECTORS; i++) {
        const f32x16 level = clamp(x[i] * splat(inverse), -zero, zero - 1);
        store_bytes(q + 16 * i, to_nearest(level) + splat(zero));
    }
    return scale;
}

// weight ≈ scale · q + minimum, with the least sum of squared errors of some steps between levels that are tried: for
// the integers that a step gives, the best line through the weights is computed (as llama.cpp's make_qkx2_quants).
template <int VECTORS>
INLINE void fit_minimum(const Weights<VECTORS>& x, int bits, uint8_t* q, float& scale, float& minimum) {
    constexpr int COUNT = 16 * VECTORS;
    const float levels = (1 << bits) - 1;
    f32x16 low = x[0], high = x[0], all = x[0];
    for (int i = 1; i < VECTORS; i++) low = min(low, x[i]), high = max(high, x[i]), all += x[i];
    const float lowest = smallest(low), range = largest(high) - lowest;
    const double sum_x = sum(all);
    scale = range / levels, minimum = lowest;
    double least = INFINITY;
    for (int trial = -5; trial <= 5 && range > 0; trial++) {
        const float inverse = (levels + 0.2f * trial) / range;
        f32x16 l_sum = {}, ll_sum = {}, xl_sum = {};
        for (int i = 0; i < VECTORS; i++) {
            const f32x16 l = to_float(to_nearest(clamp((x[i] - splat(lowest)) * splat(inverse), 0, levels)));
            l_sum += l, ll_sum = fma(l, l, ll_sum), xl_sum = fma(x[i], l, xl_sum);
        }
        const double l = sum(l_sum), ll = sum(ll_sum), xl = sum(xl_sum);
        const double slope = (COUNT * xl - sum_x * l) / (COUNT * ll - l * l), offset = (sum_x - slope * l) / COUNT;
        // The squared error less the sum of x², which is the same for all.
        const double error = -slope * xl - offset * sum_x;
        if (error < least) least = error, scale = slope, minimum = offset;
    }
    scale = rounded_to_half(scale), minimum = rounded_to_half(minimum);
    const float inverse = scale > 0 ? 1 / scale : 0;
    for (int i = 0; i < VECTORS; i++)
        store_bytes(q + 16 * i, to_nearest(clamp((x[i] - splat(minimum)) * splat(inverse), 0, levels)));
}

}  // namespace OCTAVO_ISA
