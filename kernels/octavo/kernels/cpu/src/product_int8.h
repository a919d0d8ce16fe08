// The product of 8-bit weights that have a scale for each row of their matrix.
#pragma once

#include "product.h"
#include "quantized_layout.h"

namespace OCTAVO_ISA {

struct Int8Form : WholePanels<UnsignedColumns> {
    using Kind = UnsignedColumns;

    static constexpr size_t panel_bytes(int k) { return octavo::int8_panel_bytes(k); }

    template <int R>
    INLINE void tile(
        const char* a, size_t stride, const char* panel, int k, const char* ahead, bool alone, Tile<R>& result) {
        constexpr int V = VECTORS<R>;
        const int length = octavo::int8_length(k);
        const auto of_row = [&](int r) -> const octavo::Int8Row& {
            return *reinterpret_cast<const octavo::Int8Row*>(a + r * stride + length * sizeof(Kind::Row));
        };
        for (int v = 0; v < 2; v += V) {
            i32x16 acc[R][V];
#pragma GCC unroll 12
            for (int r = 0; r < R; r++)
                for (int c = 0; c < V; c++) acc[r][c] = splat(of_row(r).correction);
            sum_panel(acc, a, stride, panel, length, ahead, alone, v);
            const float* scales = reinterpret_cast<const float*>(panel + octavo::int8_scales_at(k));
#pragma GCC unroll 12
            for (int r = 0; r < R; r++)
                for (int c = 0; c < V; c++)
                    result[r][v + c] = to_float(acc[r][c]) * load(scales + 16 * (v + c)) * splat(of_row(r).scale);
        }
    }
};

}  // namespace OCTAVO_ISA
