// What a machine can do at most: the measures that kernels are held against.
#pragma once

#include "amx.h"
#include "kernels.h"
#include "vec.h"

namespace OCTAVO_ISA {

// Reads memory once.
inline uint64_t read_memory(const char* data, size_t bytes) {
    u32x16 sums[4] = {};
    for (size_t i = 0; i + 256 <= bytes; i += 256)
        for (int v = 0; v < 4; v++) {
            prefetch(data + i + v * 64 + 4096);
            sums[v] ^= load_as<u32x16>(data + i + v * 64);
        }
    const u32x16 all = sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
    uint64_t bits = 0;
    for (int i = 0; i < 16; i++) bits ^= all[i];
    return bits;
}

template <class Kind>
INLINE uint64_t multiply_by_tiles(int rounds) {
    set_tiles(AMX_ROWS, 64);
    alignas(64) char zeros[AMX_ROWS][64] = {}, sums[MOST_AMX_ROWS][128];
    const auto columns = [&](int) { return TileColumns{zeros[0], zeros[0]}; };
    sum_tiles<Kind>(
        zeros[0], MOST_AMX_ROWS, 0, 0, rounds, true, columns, 64, [](int) {}, sums, sizeof sums[0]);
    return uint64_t(rounds) * MOST_AMX_ROWS * 32 * 64 / sizeof(typename Kind::Column) * 2;
}

// Multiplies and adds, as much as a product's inner loop, in registers only (by AMX's tiles from the first-level cache):
// the operations done, an addition and a multiplication counted as two. by_bytes: of bytes, into integers; else of
// bfloat16.
inline uint64_t multiply(int rounds, bool by_bytes) {
    if constexpr (HAS_TILES)
        return by_bytes ? multiply_by_tiles<UnsignedColumns>(rounds) : multiply_by_tiles<Pair>(rounds);
    constexpr int N = TILE_ROWS * TILE_VECTORS;
    const u32x16 a = splat(0x3f803f80u);  // two bfloat16 of 1, and about 1
    u32x16 b = unknown(a);
    uint64_t used = 0;
    if (by_bytes) {
        i32x16 acc[N];
        for (int n = 0; n < N; n++) acc[n] = splat(n);  // equal sums would be computed once
        for (int i = 0; i < rounds; i++) {
#pragma GCC unroll 24
            for (int n = 0; n < N; n++) {
#if defined(OCTAVO_VNNI)
                acc[n] = dot_quads(acc[n], a, b);
#else
                // Twice the same would be computed once.
                acc[n] = dot_shorts(acc[n], a, b);
                acc[n] = dot_shorts(acc[n], a, unknown(b));
#endif
            }
            b = unknown(b);
        }
        for (int n = 0; n < N; n++) used |= sum(acc[n]);
    } else {
        f32x16 acc[N];
        for (int n = 0; n < N; n++) acc[n] = splat(float(n));
        for (int i = 0; i < rounds; i++) {
#pragma GCC unroll 24
            for (int n = 0; n < N; n++) {
#if defined(__AVX512BF16__)
                acc[n] = dot_pairs(acc[n], a, b);
#else
                acc[n] = fma((f32x16)a, (f32x16)b, acc[n]);
                acc[n] = fma((f32x16)a, (f32x16)b, acc[n]);
#endif
            }
            b = unknown(b);
        }
        for (int n = 0; n < N; n++) used |= sum(acc[n]) == 1.f;
    }
    asm volatile("" : : "g"(used));
    return uint64_t(rounds) * N * 16 * (by_bytes ? 8 : 4);
}

}  // namespace OCTAVO_ISA
