// Passes over one row of logits. Contract: `Scans` in logits.h.
//
// Weights are exponentials in float32; their sums are in float64, in one order.
#pragma once

#include "logits.h"
#include "vec.h"

namespace OCTAVO_ISA {

using octavo::STRETCH;
using octavo::LANES;
using octavo::Scaled;

typedef double f64xr __attribute__((vector_size(REGISTER_BYTES)));

constexpr float NOTHING = -__builtin_inff();

// A bit for each element that reaches the bound; NaN does not.
INLINE uint32_t reaching(f32x16 x, f32x16 bound) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)x, (__m512)bound, _CMP_GE_OQ);
#elif defined(__AVX2__)
    return _mm256_movemask_ps(_mm256_cmp_ps(x.part[0], bound.part[0], _CMP_GE_OQ)) |
           _mm256_movemask_ps(_mm256_cmp_ps(x.part[1], bound.part[1], _CMP_GE_OQ)) << 8;
#else
    uint32_t bits = 0;
    for (int i = 0; i < LANES; i++) bits |= uint32_t(x[i] >= bound[i]) << i;
    return bits;
#endif
}

// In float64. In every lane the elements of a fixed place are summed, then the lanes by halves.
struct Sum {
    f64xr lanes[2 * REGISTERS] = {};

    __attribute__((always_inline)) void add(f32x16 v) {
        f64xr wide[2 * REGISTERS];
#if defined(__AVX512F__)
        wide[0] = (f64xr)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v));
        wide[1] = (f64xr)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1));
#elif defined(__AVX2__)
        __m128 parts[4];
        memcpy(parts, &v, sizeof parts);
        for (int i = 0; i < 4; i++) wide[i] = (f64xr)_mm256_cvtps_pd(parts[i]);
#elif defined(__x86_64__)
        __m128 parts[4];
        memcpy(parts, &v, sizeof parts);
        for (int i = 0; i < 4; i++) {
            wide[2 * i] = (f64xr)_mm_cvtps_pd(parts[i]);
            wide[2 * i + 1] = (f64xr)_mm_cvtps_pd(_mm_movehl_ps(parts[i], parts[i]));
        }
#else
        double elements[LANES];
        for (int i = 0; i < LANES; i++) elements[i] = v[i];
        memcpy(wide, elements, sizeof wide);
#endif
        for (int i = 0; i < 2 * REGISTERS; i++) lanes[i] += wide[i];
    }

    double total() const {
        double x[LANES];
        memcpy(x, lanes, sizeof x);
        for (int half = LANES / 2; half; half /= 2)
            for (int i = 0; i < half; i++) x[i] += x[i + half];
        return x[0];
    }
};

// Calls body(i, x) for the vectors of [begin, end); what is beyond the end is -inf.
template <class Body>
INLINE void each(const float* values, int begin, int end, const Body& body) {
    int i = begin;
    for (; i + LANES <= end; i += LANES) body(i, load(values + i));
    if (i < end) body(i, load_part(values + i, end - i, NOTHING));
}

INLINE int end_of(int group, int count) { return (group + 1) * STRETCH < count ? (group + 1) * STRETCH : count; }

// Whether any of a group's tokens reaches the bound: dividing by a temperature keeps the order.
INLINE bool reaches(const Scaled& row, const float* peaks, int group) {
    return reaching(load(peaks + group * LANES) / splat(row.temperature), splat(row.bound));
}

INLINE f32x16 weight(f32x16 x, f32x16 shift, f32x16 bound) {
    return zero_below(x, bound, exp(x - shift));
}

void peaks(const float* values, int count, int first, int last, float* peaks) {
    for (int group = first; group < last; group++) {
        f32x16 peak = splat(NOTHING);
        const auto take = [&](f32x16 v) { peak = max(v, peak); };  // in this order a NaN is passed over
        const int end = end_of(group, count);
        int i = group * STRETCH;
        for (; i + LANES <= end; i += LANES) take(load(values + i));
        if (i < end) take(load_part(values + i, end - i, NOTHING));
        store(peaks + group * LANES, peak);
    }
}

void weigh(const Scaled& row, const float* peaks, int first, int last, double* sums) {
    const f32x16 temperature = splat(row.temperature), shift = splat(row.shift), bound = splat(row.bound);
    for (int group = first; group < last; group++) {
        sums[group] = 0;
        if (!reaches(row, peaks, group)) continue;
        Sum sum;
        each(row.values, group * STRETCH, end_of(group, row.count),
             [&](int, f32x16 v) { sum.add(weight(v / temperature, shift, bound)); });
        sums[group] = sum.total();
    }
}

void weights(const Scaled& row, int begin, int end, float* weights) {
    const f32x16 temperature = splat(row.temperature), shift = splat(row.shift), bound = splat(row.bound);
    each(row.values, begin, end, [&](int i, f32x16 v) {
        f32x16 w = weight(v / temperature, shift, bound);
        if (i + LANES <= end)
            store(weights + i - begin, w);
        else
            store_part(weights + i - begin, w, end - i);
    });
}

int collect(const Scaled& row, const float* peaks, int first, int last, uint64_t* ranked) {
    const f32x16 temperature = splat(row.temperature), bound = splat(row.bound);
    uint64_t* next = ranked;
    for (int group = first; group < last; group++) {
        if (peaks && !reaches(row, peaks, group)) continue;
        each(row.values, group * STRETCH, end_of(group, row.count), [&](int i, f32x16 v) {
            f32x16 x = v / temperature;
            uint32_t hits = reaching(x, bound);
            if (i + LANES > row.count) hits &= (1u << (row.count - i)) - 1;
            if (!hits) return;
            float scaled[LANES];
            store(scaled, x);
            for (; hits; hits &= hits - 1) {
                const int lane = __builtin_ctz(hits);
                *next++ = octavo::ranking(scaled[lane], i + lane);
            }
        });
    }
    return next - ranked;
}

int mass(const float* weights, int count, float least, double* sum) {
    const f32x16 bound = splat(least);
    int heavy = 0;
    Sum total;
    each(weights, 0, count, [&](int, f32x16 w) {
        heavy += __builtin_popcount(reaching(w, bound));
        total.add(zero_below(w, bound, w));
    });
    *sum = total.total();
    return heavy;
}

void mask(float* values, int count, const uint32_t* bits) {
    // Brings lane i's bit to its sign.
    alignas(64) static constexpr uint32_t TO_SIGN[] = {1u << 31, 1 << 30, 1 << 29, 1 << 28, 1 << 27, 1 << 26, 1 << 25, 1 << 24,
                            1 << 23,  1 << 22, 1 << 21, 1 << 20, 1 << 19, 1 << 18, 1 << 17, 1 << 16};
    const u32x16 to_sign = load_as<u32x16>(TO_SIGN);
    for (int i = 0; i < count; i += LANES) {
        const i32x16 allowed = (i32x16)(splat(bits[i / 32] >> i % 32) * to_sign) >> 31;
        const int part = count - i;
        i32x16 x = (i32x16)(part < LANES ? load_part(values + i, part) : load(values + i));
        x = (x & allowed) | ((i32x16)splat(NOTHING) & ~allowed);
        if (part < LANES)
            store_part(values + i, (f32x16)x, part);
        else
            store(values + i, (f32x16)x);
    }
}

constexpr octavo::Scans SCANS = {peaks, weigh, weights, collect, mass, mask};

}  // namespace OCTAVO_ISA
