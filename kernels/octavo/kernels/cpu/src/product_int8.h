// The product of 8-bit weights that have a scale for each row of their matrix.
#pragma once

#include "product.h"
#include "quantized_layout.h"

namespace OCTAVO_ISA {

struct Int8Form {
    static constexpr size_t panel_bytes(int k) { return octavo::int8_panel_bytes(k); }

    template <int R>
    INLINE void tile(const char* a, size_t stride, const char* panel, int k, const char* ahead, Tile<R>& result) {
        const int quads = (k + 3) / 4;
        const uint32_t* b = reinterpret_cast<const uint32_t*>(panel);
        const float* weight_scale = reinterpret_cast<const float*>(panel + size_t(quads) * PANEL * 4);
        const auto group = [&](int r, int g) {
            return reinterpret_cast<const octavo::Int8Group*>(a + r * stride + octavo::whole(k, 64))[g];
        };
        for (int v = 0; v < 2; v += TILE_VECTORS) {
            f32x16 total[R][TILE_VECTORS] = {};
            for (int g = 0, i = 0; g < octavo::int8_groups(k); g++) {
                const int end = octavo::INT8_GROUP ? std::min(quads, i + octavo::INT8_GROUP / 4) : quads;
                i32x16 acc[R][TILE_VECTORS];
#pragma GCC unroll 12
                for (int r = 0; r < R; r++)
                    for (int c = 0; c < TILE_VECTORS; c++) acc[r][c] = splat(group(r, g).correction);
                for (; i < end; i++) {
                    prefetch(ahead + size_t(i) * 128), prefetch(ahead + size_t(i) * 128 + 64);
                    u32x16 w[TILE_VECTORS];
                    for (int c = 0; c < TILE_VECTORS; c++)
                        w[c] = load_as<u32x16>(b + size_t(i) * PANEL + 16 * (v + c));
#pragma GCC unroll 12
                    for (int r = 0; r < R; r++) {
                        u32x16 x = splat(reinterpret_cast<const uint32_t*>(a + r * stride)[i]);
                        for (int c = 0; c < TILE_VECTORS; c++) acc[r][c] = dot_quads(acc[r][c], w[c], x);
                    }
                }
#pragma GCC unroll 12
                for (int r = 0; r < R; r++)
                    for (int c = 0; c < TILE_VECTORS; c++)
                        total[r][c] = fma(to_float(acc[r][c]), splat(group(r, g).scale), total[r][c]);
            }
            for (int c = 0; c < TILE_VECTORS; c++)
                for (int r = 0; r < R; r++) result[r][v + c] = total[r][c] * load(weight_scale + 16 * (v + c));
        }
    }
};

}  // namespace OCTAVO_ISA
