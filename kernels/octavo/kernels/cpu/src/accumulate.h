// The loop that everything here spends its time in: a tile of results, summed in registers over one dimension.
#pragma once

#include "kernels.h"
#include "vec.h"

namespace OCTAVO_ISA {

// What one step of the loop takes of a row and of a column: a float32, or in 32 bits two bfloat16 or four bytes.
struct Single {
    using Element = float;
    using Sum = f32x16;
    static constexpr int PER_STEP = 1, TURNS = 1;
    template <int>
    INLINE f32x16 step(f32x16 acc, const char* column, const char* row) {
        return fma(load_as<f32x16>(column), (f32x16)splat_from(row), acc);
    }
    INLINE void put(Element* to, f32x16 v) { store(to, v); }
};

struct Pair {
    using Element = uint16_t;
    using Sum = f32x16;
    static constexpr int PER_STEP = 2, TURNS = PAIR_TURNS;
    template <int TURN>
    INLINE f32x16 step(f32x16 acc, const char* column, const char* row) {
        return dot_pairs<TURN>(acc, load_as<u32x16>(column), splat_from(row));
    }
    INLINE void put(Element* to, f32x16 v) { store_bf16(to, v); }
};

// Of bytes only products of unsigned and signed ones are there.
struct UnsignedColumns {
    using Element = int8_t;
    using Sum = i32x16;
    static constexpr int PER_STEP = 4, TURNS = 1;
    template <int>
    INLINE i32x16 step(i32x16 acc, const char* column, const char* row) {
        return dot_quads(acc, load_as<u32x16>(column), splat_from(row));
    }
};

struct UnsignedRows {
    using Element = uint8_t;
    using Sum = i32x16;
    static constexpr int PER_STEP = 4, TURNS = 1;
    template <int>
    INLINE i32x16 step(i32x16 acc, const char* column, const char* row) {
        return dot_quads(acc, splat_from(row), load_as<u32x16>(column));
    }
};

template <int N>
struct Constant {
    static constexpr int value = N;
};

// acc[r][v] += Σᵢ rows[r][i] · columns[v][i], i in [0, steps), in this order.
//
// Row r is at rows + r · row_stride and goes on by 4 bytes a step; vector v of columns is at columns[v] and goes
// on by `column_step` bytes. ahead: places in memory that will be needed soon, next or later (SOON = false: into the
// second-level cache); a cache line of each is fetched per step, `ahead_step` bytes after the last.
template <class Kind, int R, int V, int AHEAD = 0, bool SOON = true>
INLINE void accumulate(
    typename Kind::Sum (&acc)[R][V], const char* rows, size_t row_stride, const char* const (&columns)[V],
    size_t column_step, int steps, const char* const* ahead = nullptr, size_t ahead_step = 64) {
    for (int i = 0; i < steps; i++) {
#pragma GCC unroll 4
        for (int p = 0; p < AHEAD; p++) prefetch<SOON>(ahead[p] + i * ahead_step);
        const auto turn = [&](auto t) {
#pragma GCC unroll 12
            for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                for (int v = 0; v < V; v++)
                    acc[r][v] = Kind::template step<t.value>(
                        acc[r][v], columns[v] + i * column_step, rows + r * row_stride + i * 4);
        };
        turn(Constant<0>());
        if constexpr (Kind::TURNS == 2) turn(Constant<1>());
    }
}

// Calls body with 1 … MOST as a constant that equals n, so that a tile's size is known when it is compiled.
template <int MOST, class Body>
INLINE void with_constant(int n, const Body& body) {
    if constexpr (MOST > 0) {
        if (n == MOST) return body(Constant<MOST>());
        with_constant<MOST - 1>(n, body);
    }
}

}  // namespace OCTAVO_ISA
