// Vectors of 16 floats, in whatever registers the instruction set at hand has.
//
// Included by the files that are compiled once for each instruction set, inside `namespace OCTAVO_ISA`. GCC and
// clang split a 64-byte vector over smaller registers by themselves, so that everything here has one plain form;
// where an instruction does better, it is named. Sums have one order everywhere: see `sum`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

namespace OCTAVO_ISA {

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef int8_t i8x16 __attribute__((vector_size(16)));

// How many rows of a product are accumulated at once, and how many vectors of columns: as many accumulators as
// there are registers for.
#if defined(__AVX512F__)
constexpr int TILE_ROWS = 12, TILE_VECTORS = 2;
#elif defined(__AVX2__)
constexpr int TILE_ROWS = 5, TILE_VECTORS = 1;
#else
constexpr int TILE_ROWS = 2, TILE_VECTORS = 1;
#endif

template <class Vector, class T>
INLINE Vector load_as(const T* from) {
    Vector v;
    memcpy(&v, from, sizeof v);
    return v;
}
INLINE f32x16 load(const float* from) { return load_as<f32x16>(from); }
INLINE void store(float* to, f32x16 v) { memcpy(to, &v, sizeof v); }
INLINE f32x16 splat(float x) { return x - f32x16{}; }
INLINE i32x16 splat(int32_t x) { return x - i32x16{}; }
INLINE u32x16 splat(uint32_t x) { return x - u32x16{}; }

// a * b + c, rounded once where the machine can.
INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    __m256 x[2], y[2], z[2];
    memcpy(x, &a, 64), memcpy(y, &b, 64), memcpy(z, &c, 64);
    z[0] = _mm256_fmadd_ps(x[0], y[0], z[0]), z[1] = _mm256_fmadd_ps(x[1], y[1], z[1]);
    memcpy(&c, z, 64);
    return c;
#else
    return a * b + c;
#endif
}

// What compares goes by registers: GCC takes a comparison of wider vectors apart into scalars.
#if defined(__AVX512F__)
constexpr int REGISTER_BYTES = 64;
#elif defined(__AVX2__)
constexpr int REGISTER_BYTES = 32;
#else
constexpr int REGISTER_BYTES = 16;
#endif
constexpr int REGISTERS = 64 / REGISTER_BYTES;
typedef float f32xr __attribute__((vector_size(REGISTER_BYTES)));

// b where either is NaN.
INLINE f32x16 max(f32x16 a, f32x16 b) {
    f32xr x[REGISTERS], y[REGISTERS];
    memcpy(x, &a, sizeof x), memcpy(y, &b, sizeof y);
    for (int i = 0; i < REGISTERS; i++) x[i] = x[i] > y[i] ? x[i] : y[i];
    return load_as<f32x16>(x);
}

// v, but 0 where x < bound.
INLINE f32x16 zero_below(f32x16 x, f32x16 bound, f32x16 v) {
    f32xr values[REGISTERS], y[REGISTERS], limits[REGISTERS];
    memcpy(values, &v, sizeof values), memcpy(y, &x, sizeof y), memcpy(limits, &bound, sizeof limits);
    for (int i = 0; i < REGISTERS; i++) values[i] = y[i] < limits[i] ? f32xr{} : values[i];
    return load_as<f32x16>(values);
}

// The first `count` elements; the rest are `fill`.
INLINE f32x16 load_part(const float* from, int count, float fill = 0) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_mask_loadu_ps((__m512)splat(fill), (__mmask16)((1u << count) - 1), from);
#else
    f32x16 v = splat(fill);
    for (int i = 0; i < count; i++) v[i] = from[i];
    return v;
#endif
}

INLINE void store_part(float* to, f32x16 v, int count) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), (__m512)v);
#else
    for (int i = 0; i < count; i++) to[i] = v[i];
#endif
}

// Of all elements, by halves: the same order on every machine.
INLINE float sum(f32x16 v) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
    const __m256 left = _mm512_castps512_ps256((__m512)v), right = _mm512_extractf32x8_ps((__m512)v, 1);
#else
    __m256 left, right;
    memcpy(&left, &v, 32), memcpy(&right, reinterpret_cast<const char*>(&v) + 32, 32);
#endif
    const __m256 eight = _mm256_add_ps(left, right);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
    float x[16];
    store(x, v);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) x[i] += x[i + half];
    return x[0];
#endif
}

INLINE float largest(f32x16 v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    float x = v[0];
    for (int i = 1; i < 16; i++) x = v[i] > x ? v[i] : x;
    return x;
#endif
}

INLINE f32x16 min(f32x16 a, f32x16 b) { return -max(-a, -b); }
INLINE f32x16 absolute(f32x16 v) { return (f32x16)((u32x16)v & 0x7fffffff); }
INLINE f32x16 to_float(i32x16 v) { return __builtin_convertvector(v, f32x16); }

// To the nearest whole number, the even one of two; of magnitudes below 2²².
INLINE i32x16 to_nearest(f32x16 v) {
#if defined(__AVX512F__)
    return (i32x16)_mm512_cvtps_epi32((__m512)v);
#elif defined(__AVX2__)
    __m256 x[2];
    memcpy(x, &v, 64);
    const __m256i rounded[2] = {_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1])};
    return load_as<i32x16>(rounded);
#else
    // Adding 1.5·2²³ leaves no bits for a fraction.
    return (i32x16)(v + splat(12582912.f)) - splat(0x4b400000);
#endif
}

// Of numbers within a byte.
INLINE void store_bytes(void* to, i32x16 v) {
#if defined(__AVX512F__)
    _mm_storeu_si128(static_cast<__m128i*>(to), _mm512_cvtepi32_epi8((__m512i)v));
#else
    const i8x16 bytes = __builtin_convertvector(v, i8x16);
    memcpy(to, &bytes, sizeof bytes);
#endif
}

INLINE int sum(i32x16 v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    int total = 0;
    for (int i = 0; i < 16; i++) total += v[i];
    return total;
#endif
}

INLINE u32x16 widen(u16x16 v) {
#if defined(__AVX512F__)
    return (u32x16)_mm512_cvtepu16_epi32((__m256i)v);
#else
    return __builtin_convertvector(v, u32x16);
#endif
}
INLINE f32x16 from_bf16(u16x16 v) { return (f32x16)(widen(v) << 16); }
INLINE f32x16 load_bf16(const uint16_t* from) { return from_bf16(load_as<u16x16>(from)); }

// Round to nearest even. Subnormal numbers may become zero, NaN stays NaN.
INLINE u16x16 to_bf16(f32x16 v) {
#if defined(__AVX512BF16__)
    return (u16x16)_mm512_cvtneps_pbh((__m512)v);
#else
    u32x16 bits = (u32x16)v;
    u32x16 rounded = bits + 0x7fff + ((bits >> 16) & 1);
    bits = (v == v) ? rounded : bits | 0x10000;
    return __builtin_convertvector(bits >> 16, u16x16);
#endif
}
INLINE void store_bf16(uint16_t* to, f32x16 v) {
    u16x16 halves = to_bf16(v);
    memcpy(to, &halves, sizeof halves);
}

INLINE f32x16 load_f16(const uint16_t* from) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_cvtph_ps(load_as<__m256i>(from));
#elif defined(__F16C__)
    __m256 x[2] = {_mm256_cvtph_ps(load_as<__m128i>(from)), _mm256_cvtph_ps(load_as<__m128i>(from + 8))};
    return load_as<f32x16>(x);
#else
    // Shifted into a float's place the exponent is off by 112; the product mends that, for subnormals too.
    u32x16 h = widen(load_as<u16x16>(from));
    u32x16 magnitude = (h & 0x7fff) << 13;
    f32x16 value = (f32x16)magnitude * 0x1p112f;
    value = (h & 0x7c00) == 0x7c00 ? (f32x16)(magnitude | 0x7f800000) : value;
    return (f32x16)((u32x16)value | ((h & 0x8000) << 16));
#endif
}

// acc + a₀·b₀ + a₁·b₁ for 16 pairs of bfloat16, each pair in 32 bits with its first element below.
INLINE f32x16 dot_pairs(f32x16 acc, u32x16 a, u32x16 b) {
#if defined(__AVX512BF16__)
    return (f32x16)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
#else
    acc = fma((f32x16)(a << 16), (f32x16)(b << 16), acc);
    return fma((f32x16)(a & 0xffff0000), (f32x16)(b & 0xffff0000), acc);
#endif
}

#if defined(__AVX2__)
// a₀·b₀ + a₁·b₁ for 16 pairs of signed 16-bit numbers.
INLINE i32x16 dot_shorts(u32x16 a, u32x16 b) {
#if defined(__AVX512BW__)
    return (i32x16)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#else
    __m256i x[2], y[2];
    memcpy(x, &a, 64), memcpy(y, &b, 64);
    x[0] = _mm256_madd_epi16(x[0], y[0]), x[1] = _mm256_madd_epi16(x[1], y[1]);
    return load_as<i32x16>(x);
#endif
}
#endif

// acc + a₀·b₀ + … + a₃·b₃ for 16 quads of bytes: unsigned a, signed b. Exact.
INLINE i32x16 dot_quads(i32x16 acc, u32x16 a, u32x16 b) {
#if defined(__AVX512VNNI__)
    // As assembly: with the intrinsic, GCC 12 copies and spills the accumulators of a large tile.
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
    return acc;
#elif defined(__AVX512BW__) || defined(__AVX2__)
    // As 16-bit numbers, first and third byte apart from second and fourth: adding pairs of products of bytes in 16
    // bits, as VPMADDUBSW does, would saturate.
    const u32x16 a02 = a & 0x00ff00ff, a13 = (a >> 8) & 0x00ff00ff;
    typedef int16_t i16x32 __attribute__((vector_size(64)));
    const i16x32 b02 = (i16x32)(b << 8) >> 8, b13 = (i16x32)b >> 8;
    return acc + dot_shorts(a02, (u32x16)b02) + dot_shorts(a13, (u32x16)b13);
#else
    for (int i = 0; i < 4; i++)
        acc += (i32x16)((a >> (8 * i)) & 0xff) * ((i32x16)(b << (24 - 8 * i)) >> 24);
    return acc;
#endif
}

// eˣ within 2 ulp for x in [-87, 88]; 0 below, for a score of minus infinity too.
INLINE f32x16 exp(f32x16 x) {
    const f32x16 lowest = splat(-87.3f);
    // x = n·ln 2 + r.
#if defined(__AVX512F__)
    const f32x16 n =
        (f32x16)_mm512_roundscale_ps((__m512)(x * splat(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    f32x16 r = fma(n, splat(-0.693359375f), x);
    r = fma(n, splat(2.12194440e-4f), r);
#else
    f32x16 clamped = -max(splat(-88.7f), -max(lowest, x));
    // Adding 1.5·2²³ rounds n to a whole number, whose bits are the last ones of the sum.
    const f32x16 shifted = fma(clamped, splat(1.44269504f), splat(12582912.f));
    const f32x16 n = shifted - splat(12582912.f);
    f32x16 r = fma(n, splat(-0.693359375f), clamped);
    r = fma(n, splat(2.12194440e-4f), r);
#endif
    f32x16 p = splat(1.9875691500e-4f);
    p = fma(p, r, splat(1.3981999507e-3f));
    p = fma(p, r, splat(8.3334519073e-3f));
    p = fma(p, r, splat(4.1665795894e-2f));
    p = fma(p, r, splat(1.6666665459e-1f));
    p = fma(p, r, splat(5.0000001201e-1f));
    p = fma(p, r * r, r + splat(1.f));
#if defined(__AVX512F__)
    const __mmask16 counts = _mm512_cmp_ps_mask((__m512)x, (__m512)lowest, _CMP_NLT_UQ);
    return (f32x16)_mm512_maskz_scalef_ps(counts, (__m512)p, (__m512)n);
#else
    f32x16 power = (f32x16)(((i32x16)shifted + 127) << 23);
    return zero_below(x, lowest, p * power);
#endif
}

// SOON: into the first-level cache, else into the second.
template <bool SOON = true>
INLINE void prefetch(const void* address) {
    __builtin_prefetch(address, 0, SOON ? 3 : 2);
}

}  // namespace OCTAVO_ISA
