// The product of 8-bit weights that have a scale for each group of 64.
#pragma once

#include "product.h"
#include "quantized_layout.h"

namespace OCTAVO_ISA {

struct Int8Form {
    using Kind = UnsignedColumns;
    // With 12 rows the registers for sums of floats are missed more than the loads of weights are felt with 8.
    static constexpr int MOST_ROWS = std::min(TILE_ROWS, 8);
    static constexpr int tile_rows(int) { return MOST_ROWS; }
    static constexpr bool fetches(int, int) { return true; }

    static constexpr size_t panel_bytes(int k) { return octavo::int8_groups(k) * octavo::INT8_BLOCK_BYTES; }
    static constexpr int TILES_OF_NEXT = 2;

    template <int R>
    INLINE void tile(
        const char* a, size_t stride, const char* panel, int k, const char* ahead, bool alone, Tile<R>& result) {
        constexpr int V = VECTORS<R>, QUADS = octavo::INT8_GROUP / 4;
        constexpr size_t ROW_BYTES = octavo::INT8_GROUP * sizeof(Kind::Row);
        const int groups = octavo::int8_groups(k);
        for (int v = 0; v < 2; v += V) {
            f32x16 total[R][V] = {};
            const char* block = panel + 64 * v;
            for (int g = 0; g < groups; g++, block += octavo::INT8_BLOCK_BYTES) {
                const char* bytes = a + g * ROW_BYTES;
                const char* group = a + groups * ROW_BYTES + g * sizeof(octavo::Int8Group);
                const auto of_row = [&](int r) -> const octavo::Int8Group& {
                    return *reinterpret_cast<const octavo::Int8Group*>(group + r * stride);
                };
                i32x16 acc[R][V];
#pragma GCC unroll 12
                for (int r = 0; r < R; r++)
                    for (int c = 0; c < V; c++) acc[r][c] = splat(of_row(r).correction);
                const char* columns[V];
                for (int c = 0; c < V; c++) columns[c] = block + 64 * c;
                const auto sum = [&](auto lines) {
                    // Faster than memory gives them, fetches would stand in the way of each other.
                    const char* fetched[2] = {ahead, ahead + 64};
                    accumulate<Kind, R, V, lines.value, lines.value == V>(
                        acc, bytes, stride, columns, 4 * octavo::PANEL, QUADS, fetched, lines.value * 64);
                    ahead += lines.value * QUADS * 64;
                };
                if (alone || !HAS_TIME_TO_FETCH)
                    sum(Constant<V>());
                else
                    sum(Constant<1>());
                const char* scales = panel + g * octavo::INT8_BLOCK_BYTES + octavo::INT8_SCALES_AT;
                for (int c = 0; c < V; c++) {
                    const f32x16 scale = load_f16(reinterpret_cast<const uint16_t*>(scales) + 16 * (v + c));
#pragma GCC unroll 12
                    for (int r = 0; r < R; r++) {
                        const f32x16 sum = to_float(acc[r][c]);
                        total[r][c] = fma(sum * scale, splat(of_row(r).scale), total[r][c]);
                    }
                }
            }
            for (int r = 0; r < R; r++)
                for (int c = 0; c < V; c++) result[r][v + c] = total[r][c];
        }
    }
};

}  // namespace OCTAVO_ISA
