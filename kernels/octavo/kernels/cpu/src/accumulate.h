// The loop that everything here spends its time in: a tile of results, summed in registers over one dimension.
#pragma once

#include <type_traits>

#include "kernels.h"
#include "vec.h"

namespace OCTAVO_ISA {

// Integers as elements of a row.
INLINE void put(int8_t* to, i32x16 v) { store_bytes(to, v); }
INLINE void put(uint8_t* to, i32x16 v) { store_bytes(to, v); }
INLINE void put(int16_t* to, i32x16 v) { store_shorts(to, v); }

// What one step of the loop takes of a column, in 32 bits a float32, two bfloat16 or four bytes, and of a row as many
// elements. In turns, so that only a part of them is in registers at a time.
struct Single {
    using Row = float;
    using Column = float;
    using Sum = f32x16;
    static constexpr int PER_STEP = 1, TURNS = 1;
    template <int>
    INLINE f32x16 step(f32x16 acc, const char* column, const char* row) {
        return fma(load_as<f32x16>(column), (f32x16)splat_from(row), acc);
    }
    INLINE void put(Row* to, f32x16 v) { store(to, v); }
    INLINE void put_column(Column* to, f32x16 v) { store(to, v); }
};

// Without instructions for bfloat16 rows are the same numbers in float32, or their pairs would be taken apart again for
// every column.
struct Pair {
    using Column = uint16_t;
    using Sum = f32x16;
    static constexpr int PER_STEP = 2;
#if defined(__AVX512BF16__)
    using Row = uint16_t;
    static constexpr int TURNS = 1;
    template <int>
    INLINE f32x16 step(f32x16 acc, const char* column, const char* row) {
        return dot_pairs(acc, load_as<u32x16>(column), splat_from(row));
    }
    INLINE void put(Row* to, f32x16 v) { store_bf16(to, v); }
#else
    using Row = float;
    static constexpr int TURNS = 2;
    template <int TURN>
    INLINE f32x16 step(f32x16 acc, const char* column, const char* row) {
        return fma(from_pairs<TURN>(load_as<u32x16>(column)), (f32x16)splat_from(row + 4 * TURN), acc);
    }
    INLINE void put(Row* to, f32x16 v) { store(to, from_bf16(to_bf16(v))); }
#endif
    INLINE void put_column(Column* to, f32x16 v) { store_bf16(to, v); }
};

// Of bytes only products of unsigned and signed ones are there. Without VPDPBUSD rows are of 16 bits, in the order of
// `store_shorts`, and columns are taken apart.
template <bool ARE_SIGNED>
struct ByteColumns {
    using Column = std::conditional_t<ARE_SIGNED, int8_t, uint8_t>;
    using Sum = i32x16;
    static constexpr int PER_STEP = 4;
#if defined(__AVX512VNNI__)
    using Row = std::conditional_t<ARE_SIGNED, uint8_t, int8_t>;
    static constexpr int TURNS = 1;
    template <int>
    INLINE i32x16 step(i32x16 acc, const char* column, const char* row) {
        const u32x16 columns = load_as<u32x16>(column), all = splat_from(row);
        return ARE_SIGNED ? dot_quads(acc, all, columns) : dot_quads(acc, columns, all);
    }
#else
    using Row = int16_t;
    static constexpr int TURNS = 2;
    template <int TURN>
    INLINE i32x16 step(i32x16 acc, const char* column, const char* row) {
        const u32x16 columns = load_as<u32x16>(column);
        return dot_shorts(
            acc, ARE_SIGNED ? signed_shorts<TURN>(columns) : unsigned_shorts<TURN>(columns), splat_from(row + 4 * TURN));
    }
#endif
};
using UnsignedColumns = ByteColumns<false>;
using SignedColumns = ByteColumns<true>;

template <int N>
struct Constant {
    static constexpr int value = N;
};

// acc[r][v] += Σᵢ rows[r][i] · columns[v][i], i in [0, steps), in this order.
//
// Row r is at rows + r · row_stride, its elements side by side; vector v of columns is at columns[v] and goes on by
// `column_step` bytes a step. ahead: places in memory that will be needed soon, next or later (SOON = false: into the
// second-level cache); a cache line of each is fetched per step, `ahead_step` bytes after the last.
template <class Kind, int R, int V, int AHEAD = 0, bool SOON = true>
INLINE void accumulate(
    typename Kind::Sum (&acc)[R][V], const char* rows, size_t row_stride, const char* const (&columns)[V],
    size_t column_step, int steps, const char* const* ahead = nullptr, size_t ahead_step = 64) {
    constexpr size_t ROW_STEP = Kind::PER_STEP * sizeof(typename Kind::Row);
    for (int i = 0; i < steps; i++) {
#pragma GCC unroll 4
        for (int p = 0; p < AHEAD; p++) prefetch<SOON>(ahead[p] + i * ahead_step);
        const auto turn = [&](auto t) {
#pragma GCC unroll 12
            for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                for (int v = 0; v < V; v++)
                    acc[r][v] = Kind::template step<t.value>(
                        acc[r][v], columns[v] + i * column_step, rows + r * row_stride + i * ROW_STEP);
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
