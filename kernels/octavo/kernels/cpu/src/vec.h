// Vectors of 16 floats, in whatever registers the instruction set at hand has.
//
// Included by the files that are compiled once for each instruction set, inside `namespace OCTAVO_ISA`. A vector is one
// of the compiler's where a register holds it, else a `Wide`; both are computed with alike, so that everything here has
// one plain form. Where an instruction does better, it is named. Sums have one order everywhere: see `sum`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

// VPDPBUSD, for whatever registers there are.
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#define OCTAVO_VNNI
#endif

#if !defined(__AVX512F__)
#include "wide.h"
#endif

namespace OCTAVO_ISA {

#if defined(__AVX512F__)
constexpr int REGISTER_BYTES = 64, REGISTERS = 1;
typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
#else
typedef Wide<float> f32x16;
typedef Wide<int32_t> i32x16;
typedef Wide<uint32_t> u32x16;
#endif
typedef uint16_t u16x16 __attribute__((vector_size(32)));
// What a register holds of a vector: with AVX-512 all of it.
typedef float f32xr __attribute__((vector_size(REGISTER_BYTES)));
typedef int32_t i32xr __attribute__((vector_size(REGISTER_BYTES)));
typedef uint32_t u32xr __attribute__((vector_size(REGISTER_BYTES)));
typedef int16_t i16xr __attribute__((vector_size(REGISTER_BYTES)));
typedef uint16_t u16xr __attribute__((vector_size(REGISTER_BYTES)));

// How many rows of a product are accumulated at once, and how many vectors of columns: as many accumulators as
// there are registers for.
#if defined(__AVX512F__)
constexpr int TILE_ROWS = 12, TILE_VECTORS = 2;
#elif defined(__AVX2__)
constexpr int TILE_ROWS = 6, TILE_VECTORS = 1;
#else
constexpr int TILE_ROWS = 2, TILE_VECTORS = 1;
#endif

// A register of a vector.
#if defined(__AVX512F__)
template <class Vector>
INLINE Vector& part(Vector& v, int) {
    return v;
}
#else
template <class T>
INLINE typename Wide<T>::Register& part(Wide<T>& v, int i) {
    return v.part[i];
}
#endif

template <class Vector>
INLINE Vector load_as(const void* from) {
    Vector v;
#if !defined(__AVX512F__)
    // By registers, or GCC copies them through memory in smaller pieces.
    if constexpr (sizeof v == 64) {
        for (int i = 0; i < REGISTERS; i++)
            memcpy(&v.part[i], static_cast<const char*>(from) + i * REGISTER_BYTES, REGISTER_BYTES);
        return v;
    }
#endif
    memcpy(&v, from, sizeof v);
    return v;
}
template <class Vector>
INLINE void store_as(void* to, Vector v) {
#if defined(__AVX512F__)
    memcpy(to, &v, sizeof v);
#else
    for (int i = 0; i < REGISTERS; i++) memcpy(static_cast<char*>(to) + i * REGISTER_BYTES, &v.part[i], REGISTER_BYTES);
#endif
}
INLINE f32x16 load(const float* from) { return load_as<f32x16>(from); }
INLINE void store(float* to, f32x16 v) { store_as(to, v); }
#if defined(__AVX512F__)
INLINE f32x16 splat(float x) { return x - f32x16{}; }
INLINE i32x16 splat(int32_t x) { return x - i32x16{}; }
INLINE u32x16 splat(uint32_t x) { return x - u32x16{}; }
INLINE f32x16 select(i32x16 where, f32x16 a, f32x16 b) { return where ? a : b; }
#else
template <class T>
INLINE Wide<T> splat(T x) {
    Wide<T> v;
    for (auto& part : v.part) part = x - typename Wide<T>::Register{};
    return v;
}
// a where all bits are set, b where none is.
INLINE f32x16 select(i32x16 where, f32x16 a, f32x16 b) {
    for (int i = 0; i < REGISTERS; i++) a.part[i] = where.part[i] ? a.part[i] : b.part[i];
    return a;
}
#endif

// The same bits, of which the compiler knows nothing: what is computed with them, it computes each time.
INLINE u32x16 unknown(u32x16 v) {
#if defined(__AVX512F__)
    asm volatile("" : "+v"(v));
#elif defined(__x86_64__)
    for (auto& part : v.part) asm volatile("" : "+x"(part));
#endif
    return v;
}

// Four bytes in every lane of a register.
INLINE u32xr splat_from(const void* from) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    // As assembly: what is then done to the lanes, GCC would do to one number before it is spread. Each time anew: kept
    // for later, it would take a register that sums need.
    u32xr all;
    asm volatile("vbroadcastss %1, %0" : "=x"(all) : "m"(*static_cast<const float*>(from)));
    return all;
#else
    return load_as<uint32_t>(from) - u32xr{};
#endif
}

// The same in every register of a vector.
INLINE u32x16 everywhere(u32xr v) {
#if defined(__AVX512F__)
    return v;
#else
    u32x16 all;
    for (auto& part : all.part) part = v;
    return all;
#endif
}

// a * b + c, rounded once where the machine can.
INLINE f32xr fma(f32xr a, f32xr b, f32xr c) {
#if defined(__AVX512F__)
    return (f32xr)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (f32xr)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}
#if !defined(__AVX512F__)
INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
    for (int i = 0; i < REGISTERS; i++) c.part[i] = fma(a.part[i], b.part[i], c.part[i]);
    return c;
}
#endif

// b where either is NaN.
INLINE f32x16 max(f32x16 a, f32x16 b) {
    return select(a > b, a, b);
}

// v, but 0 where x < bound.
INLINE f32x16 zero_below(f32x16 x, f32x16 bound, f32x16 v) {
    return select(x < bound, f32x16{}, v);
}

// The first `count` elements; the rest are `fill`.
INLINE f32x16 load_part(const float* from, int count, float fill = 0) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_mask_loadu_ps((__m512)splat(fill), (__mmask16)((1u << count) - 1), from);
#else
    float lanes[16];
    store(lanes, splat(fill));
    memcpy(lanes, from, count * sizeof(float));
    return load(lanes);
#endif
}

INLINE void store_part(float* to, f32x16 v, int count) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), (__m512)v);
#else
    float lanes[16];
    store(lanes, v);
    memcpy(to, lanes, count * sizeof(float));
#endif
}

// Of all elements, by halves: the same order on every machine.
INLINE float sum(f32x16 v) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
    const __m256 left = _mm512_castps512_ps256((__m512)v), right = _mm512_extractf32x8_ps((__m512)v, 1);
#else
    const __m256 left = v.part[0], right = v.part[1];
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
#elif defined(__AVX2__)
    const __m256 eight = _mm256_max_ps(v.part[0], v.part[1]);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
#else
    float x = v[0];
    for (int i = 1; i < 16; i++) x = v[i] > x ? v[i] : x;
    return x;
#endif
}

INLINE f32x16 min(f32x16 a, f32x16 b) { return -max(-a, -b); }
INLINE f32x16 absolute(f32x16 v) { return (f32x16)((u32x16)v & 0x7fffffff); }
INLINE f32x16 to_float(i32x16 v) {
#if defined(__AVX512F__)
    return __builtin_convertvector(v, f32x16);
#else
    f32x16 floats;
    for (int i = 0; i < REGISTERS; i++) floats.part[i] = __builtin_convertvector(v.part[i], f32xr);
    return floats;
#endif
}

// To the nearest whole number, the even one of two; of magnitudes below 2²².
INLINE i32x16 to_nearest(f32x16 v) {
#if defined(__AVX512F__)
    return (i32x16)_mm512_cvtps_epi32((__m512)v);
#elif defined(__AVX2__)
    return {(i32x16::Register)_mm256_cvtps_epi32(v.part[0]), (i32x16::Register)_mm256_cvtps_epi32(v.part[1])};
#else
    // Adding 1.5·2²³ leaves no bits for a fraction.
    return (i32x16)(v + splat(12582912.f)) - splat(0x4b400000);
#endif
}

// Of numbers within a byte.
INLINE void store_bytes(void* to, i32x16 v) {
#if defined(__AVX512F__)
    _mm_storeu_si128(static_cast<__m128i*>(to), _mm512_cvtepi32_epi8((__m512i)v));
#elif defined(__AVX2__)
    v = v & 0xff;
    const __m256i halves = _mm256_permute4x64_epi64(_mm256_packus_epi32((__m256i)v.part[0], (__m256i)v.part[1]), 0xd8);
    const __m128i low = _mm256_castsi256_si128(halves), high = _mm256_extracti128_si256(halves, 1);
    _mm_storeu_si128(static_cast<__m128i*>(to), _mm_packus_epi16(low, high));
#else
    for (int i = 0; i < 16; i++) static_cast<int8_t*>(to)[i] = int8_t(v[i]);
#endif
}

// Of four vectors of numbers within 16 bits the upper bytes and the lower ones: of every vector its first four, then
// the next four of every one, and so on.
#if defined(__AVX512BW__)
INLINE void store_quads(uint8_t* upper, uint8_t* lower, const int32_t* from) {
    __m512i pairs[2];
    for (int i = 0; i < 2; i++)
        pairs[i] = _mm512_packus_epi32(load_as<__m512i>(from + 32 * i), load_as<__m512i>(from + 32 * i + 16));
    const __m512i low = _mm512_set1_epi16(255);
    store_as(upper, _mm512_packus_epi16(_mm512_srli_epi16(pairs[0], 8), _mm512_srli_epi16(pairs[1], 8)));
    store_as(lower, _mm512_packus_epi16(_mm512_and_si512(pairs[0], low), _mm512_and_si512(pairs[1], low)));
}
#else
// Named where there are tiles only.
void store_quads(uint8_t* upper, uint8_t* lower, const int32_t* from);
#endif

// Of numbers within 16 bits, of every four the second and the third changed round: as `signed_shorts` takes quads apart.
INLINE void store_shorts(int16_t* to, i32x16 v) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
    const __m256i shorts = _mm512_cvtepi32_epi16((__m512i)v);
#else
    const __m256i shorts = _mm256_permute4x64_epi64(_mm256_packs_epi32((__m256i)v.part[0], (__m256i)v.part[1]), 0xd8);
#endif
    const __m256i turned = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(shorts, 0xd8), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), turned);
#else
    for (int i = 0; i < 16; i += 4)
        to[i] = int16_t(v[i]), to[i + 1] = int16_t(v[i + 2]), to[i + 2] = int16_t(v[i + 1]), to[i + 3] = int16_t(v[i + 3]);
#endif
}

INLINE int sum(i32x16 v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_epi32((__m512i)v);
#elif defined(__AVX2__)
    const __m256i eight = (__m256i)(v.part[0] + v.part[1]);
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
#else
    int total = 0;
    for (int i = 0; i < 16; i++) total += v[i];
    return total;
#endif
}

INLINE u32x16 widen(u16x16 v) {
#if defined(__AVX512F__)
    return (u32x16)_mm512_cvtepu16_epi32((__m256i)v);
#elif defined(__AVX2__)
    const __m128i low = _mm256_castsi256_si128((__m256i)v), high = _mm256_extracti128_si256((__m256i)v, 1);
    return {(u32x16::Register)_mm256_cvtepu16_epi32(low), (u32x16::Register)_mm256_cvtepu16_epi32(high)};
#else
    uint32_t lanes[16];
    for (int i = 0; i < 16; i++) lanes[i] = v[i];
    return load_as<u32x16>(lanes);
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
    bits = (u32x16)select(v == v, (f32x16)rounded, (f32x16)(bits | 0x10000)) >> 16;
#if defined(__AVX512F__)
    return __builtin_convertvector(bits, u16x16);
#elif defined(__AVX2__)
    return (u16x16)_mm256_permute4x64_epi64(_mm256_packus_epi32((__m256i)bits.part[0], (__m256i)bits.part[1]), 0xd8);
#else
    u16x16 halves;
    for (int i = 0; i < 16; i++) halves[i] = bits[i];
    return halves;
#endif
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
    return {_mm256_cvtph_ps(load_as<__m128i>(from)), _mm256_cvtph_ps(load_as<__m128i>(from + 8))};
#else
    // Shifted into a float's place the exponent is off by 112; the product mends that, for subnormals too.
    u32x16 h = widen(load_as<u16x16>(from));
    u32x16 magnitude = (h & 0x7fff) << 13;
    f32x16 value = (f32x16)magnitude * 0x1p112f;
    value = select((h & 0x7c00) == splat(0x7c00u), (f32x16)(magnitude | 0x7f800000), value);
    return (f32x16)((u32x16)value | ((h & 0x8000) << 16));
#endif
}

// The first and the second elements of pairs of bfloat16, each pair in 32 bits with its first element below.
template <int WHICH>
INLINE f32xr from_pairs(u32xr pairs) {
    return (f32xr)(WHICH == 0 ? pairs << 16 : pairs & 0xffff0000);
}

#if defined(__AVX512BF16__)
// acc + a₀·b₀ + a₁·b₁ for 16 pairs of bfloat16.
INLINE f32x16 dot_pairs(f32x16 acc, u32x16 a, u32x16 b) {
    return (f32x16)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
}
#endif

// acc + a₀·b₀ + a₁·b₁ for pairs of signed 16-bit numbers.
INLINE i32xr dot_shorts(i32xr acc, u32xr a, u32xr b) {
#if defined(__AVX512BW__)
    return acc + (i32xr)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    // As assembly: GCC would make all products first, far more than it has registers for, and then add.
    i32xr product;
    asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(acc), "=&x"(product) : "x"(a), "x"(b));
    return acc;
#elif defined(__SSE2__)
    return acc + (i32xr)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    return acc + ((i32xr)(a << 16) >> 16) * ((i32xr)(b << 16) >> 16) + ((i32xr)a >> 16) * ((i32xr)b >> 16);
#endif
}
#if !defined(__AVX512F__)
INLINE i32x16 dot_shorts(i32x16 acc, u32x16 a, u32x16 b) {
    for (int i = 0; i < REGISTERS; i++) acc.part[i] = dot_shorts(acc.part[i], a.part[i], b.part[i]);
    return acc;
}
#endif

// Of quads of bytes the first and third (WHICH = 0), or the second and fourth, as 16-bit numbers.
template <int WHICH>
INLINE u32xr unsigned_shorts(u32xr quads) {
    return WHICH == 0 ? quads & 0x00ff00ff : (u32xr)((u16xr)quads >> 8);
}
template <int WHICH>
INLINE u32xr signed_shorts(u32xr quads) {
    return (u32xr)((WHICH == 0 ? (i16xr)((u16xr)quads << 8) : (i16xr)quads) >> 8);
}

// acc + a₀·b₀ + … + a₃·b₃ for quads of bytes: unsigned a, signed b. Exact.
INLINE i32xr dot_quads(i32xr acc, u32xr a, u32xr b) {
#if defined(__AVX512VNNI__)
    // As assembly: with the intrinsic, GCC 12 copies and spills the accumulators of a large tile.
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
    return acc;
#elif defined(__AVXVNNI__)
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(a), "x"(b));
    return acc;
#else
    // As 16-bit numbers: adding pairs of products of bytes in 16 bits, as VPMADDUBSW does, would saturate.
    acc = dot_shorts(acc, unsigned_shorts<0>(a), signed_shorts<0>(b));
    return dot_shorts(acc, unsigned_shorts<1>(a), signed_shorts<1>(b));
#endif
}
#if !defined(__AVX512F__)
INLINE i32x16 dot_quads(i32x16 acc, u32x16 a, u32x16 b) {
    for (int i = 0; i < REGISTERS; i++) acc.part[i] = dot_quads(acc.part[i], a.part[i], b.part[i]);
    return acc;
}
#endif

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

// 2ˣ within 3 · 10⁻⁶ of it, for what will be rounded to 16 bits or fewer; x is finite and less than 128. 0 far below.
INLINE f32x16 quick_exp2(f32x16 x) {
#if defined(__AVX512F__)
    const f32x16 n = (f32x16)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const f32x16 r = x - n;
#else
    const f32x16 lowest = splat(-126.f), clamped = max(lowest, x);
    const f32x16 shifted = clamped + splat(12582912.f);
    const f32x16 r = clamped - (shifted - splat(12582912.f));
#endif
    f32x16 p = splat(9.570101908e-3f);
    p = fma(p, r, splat(5.591786032e-2f));
    p = fma(p, r, splat(2.402474483e-1f));
    p = fma(p, r, splat(6.931218147e-1f));
    p = fma(p, r, splat(9.999992614e-1f));
#if defined(__AVX512F__)
    return (f32x16)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    return zero_below(x, lowest, p * (f32x16)(((i32x16)shifted + 127) << 23));
#endif
}

// SOON: into the first-level cache, else into the second.
template <bool SOON = true>
INLINE void prefetch(const void* address) {
    __builtin_prefetch(address, 0, SOON ? 3 : 2);
}
INLINE void prefetch_to_write(const void* address) { __builtin_prefetch(address, 1, 3); }

}  // namespace OCTAVO_ISA
