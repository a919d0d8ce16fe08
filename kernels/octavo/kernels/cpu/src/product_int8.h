// The product of 8-bit weights that have a scale for each group of 64.
#pragma once

#include "product.h"
#include "quads.h"
#include "quantized_layout.h"

namespace OCTAVO_ISA {

struct Int8Form {
    // With 12 rows the registers for sums of floats are missed more than the loads of weights are felt with 8.
    static constexpr int MOST_ROWS = TILE_VECTORS == 2 ? 8 : std::min(TILE_ROWS, 4);
    static constexpr int tile_rows(int) { return MOST_ROWS; }
    static constexpr bool fetches(int, int) { return true; }

    static constexpr size_t panel_bytes(int k) { return octavo::int8_groups(k) * octavo::INT8_BLOCK_BYTES; }
    static constexpr int TILES_OF_NEXT = 2;

    template <int R>
    INLINE void tile(
        const char* a, size_t stride, const char* panel, int k, const char* ahead, bool alone, Tile<R>& result) {
        constexpr int VECTORS = TILE_VECTORS, QUADS = octavo::INT8_GROUP / 4;
        const int groups = octavo::int8_groups(k);
        for (int v = 0; v < 2; v += VECTORS) {
            f32x16 total[R][VECTORS] = {};
            const char* block = panel + 64 * v;
            for (int g = 0; g < groups; g++, block += octavo::INT8_BLOCK_BYTES) {
                const char* bytes = a + g * octavo::INT8_GROUP;
                const char* group = a + groups * octavo::INT8_GROUP + g * sizeof(octavo::Int8Group);
                const auto of_row = [&](int r) -> const octavo::Int8Group& {
                    return *reinterpret_cast<const octavo::Int8Group*>(group + r * stride);
                };
                QuadSum<8, R> acc[R][VECTORS];
#pragma GCC unroll 12
                for (int r = 0; r < R; r++)
                    for (int c = 0; c < VECTORS; c++) acc[r][c].begin(splat(of_row(r).correction));
                const auto sum = [&](auto lines) {
                    for (int i = 0; i < QUADS; i++) {
                        // Faster than memory gives them, fetches would stand in the way of each other.
                        for (int c = 0; c < lines.value; c++, ahead += 64) prefetch<(lines.value == VECTORS)>(ahead);
                        u32x16 w[VECTORS];
                        for (int c = 0; c < VECTORS; c++) w[c] = load_as<u32x16>(block + 128 * i + 64 * c);
#pragma GCC unroll 12
                        for (int r = 0; r < R; r++) {
                            const u32x16 x = splat_from(bytes + r * stride + 4 * i);
                            for (int c = 0; c < VECTORS; c++) acc[r][c].add(i, w[c], x);
                        }
                    }
                };
                if (alone || !HAS_TIME_TO_FETCH)
                    sum(Constant<VECTORS>());
                else
                    sum(Constant<1>());
                const char* scales = panel + g * octavo::INT8_BLOCK_BYTES + octavo::INT8_SCALES_AT;
                for (int c = 0; c < VECTORS; c++) {
                    const f32x16 scale = load_f16(reinterpret_cast<const uint16_t*>(scales) + 16 * (v + c));
#pragma GCC unroll 12
                    for (int r = 0; r < R; r++) {
                        const f32x16 sum = to_float(acc[r][c].total(splat(of_row(r).correction)));
                        total[r][c] = fma(sum * scale, splat(of_row(r).scale), total[r][c]);
                    }
                }
            }
            for (int r = 0; r < R; r++)
                for (int c = 0; c < VECTORS; c++) result[r][v + c] = total[r][c];
        }
    }
};

}  // namespace OCTAVO_ISA
