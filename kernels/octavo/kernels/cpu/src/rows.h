// What is done to one row of activations between two products.
#pragma once

#include <cmath>

#include "accumulate.h"
#include "kernels.h"
#include "quantize.h"
#include "vec.h"

namespace OCTAVO_ISA {

// From one row of activations to the next.
inline size_t activation_bytes(octavo::Form form, int k) {
    switch (form) {
        case octavo::F32:
            return octavo::whole(k * sizeof(float), 64);
        case octavo::BF16:
            return octavo::whole(k * sizeof(Pair::Row), 64);
        case octavo::INT8:
            return octavo::whole(octavo::int8_length(k) * sizeof(UnsignedColumns::Row) + sizeof(octavo::Int8Row), 64);
        default:
            return octavo::whole(octavo::groups_of(k) * sizeof(octavo::ActivationGroup), 64);
    }
}

// How many numbers after a row's own others are fetched: the team has written them, each thread some.
constexpr int AHEAD_FLOATS = 2048;

// A row of floats as the activations of a product with weights of `form`; n is a multiple of 16. scratch:
// [int8_length(n)]; may be x. next: see `transform_row`.
INLINE void to_activations(
    const float* x, int n, octavo::Form form, float* scratch, void* out, const float* next) {
    switch (form) {
        case octavo::BF16:
            for (int i = 0; i < n; i += 16) Pair::put(static_cast<Pair::Row*>(out) + i, load(x + i));
            break;
        case octavo::F32:
            memcpy(out, x, n * sizeof(float));
            break;
        case octavo::INT8:
            quantize_int8(x, n, scratch, static_cast<char*>(out), next);
            break;
        default:
            quantize_groups(x, n, static_cast<char*>(out), next);
    }
}

inline void to_activations(const float* x, int n, octavo::Form form, float* scratch, void* out) {
    to_activations(x, n, form, scratch, out, x + AHEAD_FLOATS);
}

// x / √(mean(x²) + eps) · weight (Zhang and Sennrich, 2019), as activations. scratch: as above.
inline void rms_norm(
    const float* x, const float* weight, float eps, int n, octavo::Form form, float* scratch, void* out) {
    f32x16 squares = {};
    for (int i = 0; i < n; i += 16) {
        prefetch(x + AHEAD_FLOATS + i);
        squares = fma(load(x + i), load(x + i), squares);
    }
    const f32x16 factor = splat(1 / std::sqrt(sum(squares) / n + eps));
    for (int i = 0; i < n; i += 16) store(scratch + i, load(x + i) * factor * load(weight + i));
    to_activations(scratch, n, form, scratch, out, nullptr);
}

}  // namespace OCTAVO_ISA
