// Walsh and Hadamard's transform of 64 numbers: as many sums of all of them, each with other signs. What stands out among
// them is spread over all, so that rounding to a few bits costs the others less (as in QuaRot, Ashkboos et al., 2024).
//
// Numbers that are all alike, or alike by turns, would all come into one sum. Each has a sign before, therefore: those of a
// bent function, with which every such pattern is spread over all sums evenly.
#pragma once

#include "quantized_layout.h"
#include "vec.h"

namespace OCTAVO_ISA {

using octavo::HADAMARD;

// Lane i gets what lane i ^ DISTANCE has.
template <int DISTANCE>
INLINE f32x16 exchanged(f32x16 v) {
#if defined(__AVX512F__)
    const __m512 x = (__m512)v;
    if constexpr (DISTANCE < 4) return (f32x16)_mm512_permute_ps(x, DISTANCE == 1 ? 0xb1 : 0x4e);
    return (f32x16)_mm512_shuffle_f32x4(x, x, DISTANCE == 4 ? 0xb1 : 0x4e);
#else
    constexpr int LANES = REGISTER_BYTES / sizeof(float);
    f32x16 to;
    for (int i = 0; i < REGISTERS; i++) {
        const f32xr x = v.part[i ^ DISTANCE / LANES];
#if defined(__AVX2__)
        if constexpr (DISTANCE < 4)
            to.part[i] = (f32xr)_mm256_permute_ps((__m256)x, DISTANCE == 1 ? 0xb1 : 0x4e);
        else
            to.part[i] = DISTANCE == 4 ? (f32xr)_mm256_permute2f128_ps((__m256)x, (__m256)x, 1) : x;
#else
        for (int lane = 0; lane < LANES; lane++) to.part[i][lane] = x[lane ^ DISTANCE % LANES];
#endif
    }
    return to;
#endif
}

// +1 or -1 for each element.
struct Signs {
    alignas(64) float of[HADAMARD];
};

template <int DISTANCE>
constexpr Signs signs_of_sums() {
    Signs signs{};
    for (int i = 0; i < HADAMARD; i++) signs.of[i] = i & DISTANCE ? -1 : 1;
    return signs;
}
template <int DISTANCE>
INLINE f32x16 add_or_subtract(f32x16 v) {
    static constexpr Signs SIGNS = signs_of_sums<DISTANCE>();
    return fma(v, load(SIGNS.of), exchanged<DISTANCE>(v));
}

constexpr Signs signs_of_elements() {
    Signs signs{};
    for (int i = 0; i < HADAMARD; i++) signs.of[i] = float(octavo::hadamard_sign(i));
    return signs;
}

// In place: element i is multiplied by its `hadamard_sign`, and then come the sums.
INLINE void hadamard(f32x16 (&x)[HADAMARD / 16]) {
    static constexpr Signs SIGNS = signs_of_elements();
    constexpr int VECTORS = HADAMARD / 16;
    for (int i = 0; i < VECTORS; i++) x[i] *= load(SIGNS.of + 16 * i);
    for (int distance = 1; distance < VECTORS; distance *= 2)
        for (int i = 0; i < VECTORS; i++)
            if (!(i & distance)) {
                const f32x16 one = x[i], other = x[i + distance];
                x[i] = one + other, x[i + distance] = one - other;
            }
    for (f32x16& v : x) v = add_or_subtract<8>(add_or_subtract<4>(add_or_subtract<2>(add_or_subtract<1>(v))));
}

}  // namespace OCTAVO_ISA
