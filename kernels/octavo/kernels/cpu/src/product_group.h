// The product of weights that have a scale for each group of 32 or 16.
#pragma once

#include "product.h"
#include "quads.h"
#include "quantized_layout.h"

namespace OCTAVO_ISA {

// The quads of 16 columns of a block, as bytes.
template <int BITS>
INLINE void unpack(const char* from, u32x16 (&quads)[8]) {
    if constexpr (BITS == 8) {
        for (int i = 0; i < 8; i++) quads[i] = load_as<u32x16>(from + 64 * i);
    } else {
        for (int i = 0; i < 4; i++) {
            const u32x16 low = load_as<u32x16>(from + 64 * i);
            quads[i] = low & 0x0f0f0f0f, quads[i + 4] = (low >> 4) & 0x0f0f0f0f;
        }
        constexpr int HIGH = BITS - 4;
        if constexpr (HIGH > 0) {
            constexpr uint32_t MASK = 0x10101010 * ((1 << HIGH) - 1);
            for (int i = 0; i < 8; i++) {
                const u32x16 high = load_as<u32x16>(from + 64 * (4 + i * HIGH / 8));
                const int shift = i * HIGH % 8;
                quads[i] |= (shift < 4 ? high << (4 - shift) : high >> (shift - 4)) & MASK;
            }
        }
    }
}

template <int FORM>
struct GroupForm {
    static constexpr int FEW_ROWS = std::min(TILE_ROWS, 4);
#if defined(__AVX512VNNI__)
    static constexpr int MOST_ROWS = TILE_ROWS;
#else
    static constexpr int MOST_ROWS = FEW_ROWS;  // quads are taken apart for every row, whatever the rows
#endif
    // Two tiles at least where rows are not few: the second one fetches what it needs for the next panel.
    static constexpr int tile_rows(int rows) {
        return rows <= FEW_ROWS ? FEW_ROWS : std::min(MOST_ROWS, (rows + 1) / 2);
    }
    static constexpr bool fetches(int, int) { return true; }
    static constexpr int LEAST_TILE_ROWS = NEVER;

    static constexpr octavo::GroupShape SHAPE = octavo::shape_of(FORM);
    static constexpr size_t BLOCK = octavo::block_bytes(SHAPE);
    static constexpr size_t panel_bytes(int k) { return octavo::groups_of(k) * BLOCK; }
    static constexpr int TILES_OF_NEXT = 1;

    // What the integers' sum of a part of a group starts from, to count q from the middle of its range.
    INLINE i32x16 start(const octavo::ActivationGroup& x, int part) {
        if constexpr (SHAPE.minimum) return i32x16{};
        if constexpr (SHAPE.length == 32) return splat(x.correction) << (SHAPE.bits - 4);
        return (part ? splat(x.correction) - splat(x.first_correction) : splat(x.first_correction))
               << (SHAPE.bits - 4);
    }

    // A block of some of the columns, taken apart.
    template <int VECTORS>
    struct Block {
        static constexpr int PARTS = octavo::GROUP / SHAPE.length;
        u32x16 quads[VECTORS][8];
        f32x16 scale[VECTORS][PARTS], minimum[VECTORS];

        INLINE f32x16 halves(const char* from) { return load_f16(reinterpret_cast<const uint16_t*>(from)); }

        __attribute__((always_inline)) Block(const char* block, int vector) {
            for (int c = 0; c < VECTORS; c++) {
                unpack<SHAPE.bits>(block + (vector + c) * SHAPE.bits * 64, quads[c]);
                const char* from = block + (vector + c) * 32;
                for (int part = 0; part < PARTS; part++)
                    scale[c][part] = halves(from + octavo::scales_at(SHAPE) + part * PANEL * 2);
                if constexpr (SHAPE.minimum) minimum[c] = halves(from + octavo::minima_at(SHAPE));
            }
        }
    };

    // Adds the block's part of the sums of a few rows, together so that none waits for another's last sum.
    template <int ROWS, int VECTORS>
    INLINE void add(const Block<VECTORS>& block, const char* a, size_t stride, f32x16 (*acc)[VECTORS]) {
        constexpr int PARTS = Block<VECTORS>::PARTS, QUADS = 8 / PARTS;
        const auto group = [&](int r) -> const octavo::ActivationGroup& {
            return *reinterpret_cast<const octavo::ActivationGroup*>(a + r * stride);
        };
        QuadSum<SHAPE.bits, ROWS> dot[PARTS][ROWS][VECTORS];
        for (int part = 0; part < PARTS; part++) {
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++)
                for (int c = 0; c < VECTORS; c++) dot[part][r][c].begin(start(group(r), part));
#pragma GCC unroll 8
            for (int i = 0; i < QUADS; i++)
#pragma GCC unroll 4
                for (int r = 0; r < ROWS; r++) {
                    const int at = part * QUADS + i;
                    const u32x16 x = everywhere(splat_from(group(r).q + 4 * at));
                    for (int c = 0; c < VECTORS; c++) dot[part][r][c].add(i, block.quads[c][at], x);
                }
        }
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++)
            for (int c = 0; c < VECTORS; c++) {
                f32x16 scaled = to_float(dot[0][r][c].total(start(group(r), 0))) * block.scale[c][0];
                if constexpr (PARTS == 2)
                    scaled = fma(to_float(dot[1][r][c].total(start(group(r), 1))), block.scale[c][1], scaled);
                acc[r][c] = fma(scaled, splat(group(r).scale), acc[r][c]);
                if constexpr (SHAPE.minimum) acc[r][c] = fma(block.minimum[c], splat(group(r).sum), acc[r][c]);
            }
    }

    template <int R>
    INLINE void tile(
        const char* a, size_t stride, const char* panel, int k, const char* ahead, bool, Tile<R>& result) {
        // Few rows go through a panel once, in the order in which it comes from memory; one or two have registers for
        // both of its vectors at a time. With many rows, whose panel is in the cache, there are registers for the sums
        // of one vector of columns only.
        constexpr int VECTORS = R <= 2 ? TILE_VECTORS : 1, AT_ONCE = R <= FEW_ROWS ? 2 / VECTORS : 1;
        constexpr int ROWS = std::min(R, 4 / VECTORS), REST = R % ROWS;
        const int groups = octavo::groups_of(k);
        for (int from = 0; from < 2; from += VECTORS * AT_ONCE) {
            f32x16 acc[AT_ONCE][R][VECTORS] = {};
            for (int g = 0; g < groups; g++) {
                for (size_t line = 0; line < BLOCK * VECTORS * AT_ONCE / 2; line += 64, ahead += 64) prefetch(ahead);
                const char* x = a + g * sizeof(octavo::ActivationGroup);
#pragma GCC unroll 2
                for (int v = 0; v < AT_ONCE; v++) {
                    const Block<VECTORS> block(panel + g * BLOCK, from + v * VECTORS);
#pragma GCC unroll 12
                    for (int r = 0; r < R - REST; r += ROWS) add<ROWS>(block, x + r * stride, stride, acc[v] + r);
                    if constexpr (REST) add<REST>(block, x + (R - REST) * stride, stride, acc[v] + R - REST);
                }
            }
            for (int v = 0; v < AT_ONCE; v++)
                for (int r = 0; r < R; r++)
                    for (int c = 0; c < VECTORS; c++) result[r][from + v * VECTORS + c] = acc[v][r][c];
        }
    }
};

}  // namespace OCTAVO_ISA
