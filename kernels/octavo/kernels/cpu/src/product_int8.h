// The product of 8-bit weights that have a scale for each row of their matrix.
#pragma once

#include "product.h"
#include "quantized_layout.h"

namespace OCTAVO_ISA {

struct Int8Form : WholePanels<UnsignedColumns> {
    using Kind = UnsignedColumns;
    // Sums of bytes are the same by whatever instructions, and few rows wait for memory.
    static constexpr int LEAST_TILE_ROWS = HAS_TILES ? MOST_ROWS + 1 : NEVER;

    static constexpr size_t panel_bytes(int k) { return octavo::int8_panel_bytes(k); }
    static constexpr size_t row_bytes(int k) { return octavo::int8_length(k) * sizeof(Kind::Row); }

    // What is known of a row of activations.
    INLINE const octavo::Int8Row& of_row(const char* a, int k) {
        return *reinterpret_cast<const octavo::Int8Row*>(a + row_bytes(k));
    }
    // Of a panel's columns from 16 · v on.
    INLINE f32x16 scales(const char* panel, int k, int v) {
        return load(reinterpret_cast<const float*>(panel + octavo::int8_scales_at(k)) + 16 * v);
    }
    INLINE f32x16 result_of(i32x16 sum, const char* a, const char* panel, int k, int v) {
        return to_float(sum + of_row(a, k).correction) * scales(panel, k, v) * splat(of_row(a, k).scale);
    }

    template <int R>
    INLINE void tile(
        const char* a, size_t stride, const char* panel, int k, const char* ahead, bool alone, Tile<R>& result) {
        constexpr int V = VECTORS<R>;
        const int length = octavo::int8_length(k);
        for (int v = 0; v < 2; v += V) {
            i32x16 acc[R][V];
#pragma GCC unroll 12
            for (int r = 0; r < R; r++)
                for (int c = 0; c < V; c++) acc[r][c] = splat(of_row(a + r * stride, k).correction);
            sum_panel(acc, a, stride, panel, length, ahead, alone, v);
#pragma GCC unroll 12
            for (int r = 0; r < R; r++)
                for (int c = 0; c < V; c++)
                    result[r][v + c] =
                        to_float(acc[r][c]) * scales(panel, k, v + c) * splat(of_row(a + r * stride, k).scale);
        }
    }
};

}  // namespace OCTAVO_ISA
