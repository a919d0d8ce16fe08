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
// elements. In turns, so that only a part of them is in registers at a time: of each turn, what a register holds of the
// columns, and what is added up of that and of a row's elements.
struct Single {
    using Row = float;
    using Column = float;
    using Sum = f32x16;
    using Register = f32xr;
    static constexpr int PER_STEP = 1, TURNS = 1;
    template <int>
    INLINE Register columns(u32xr stored) {
        return (Register)stored;
    }
    INLINE f32xr add(f32xr acc, Register columns, u32xr row) { return fma(columns, (f32xr)row, acc); }
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
    using Register = u32xr;
    static constexpr int TURNS = 1;
    template <int>
    INLINE Register columns(u32xr stored) {
        return stored;
    }
    INLINE f32xr add(f32xr acc, Register columns, u32xr row) { return dot_pairs(acc, columns, row); }
    INLINE void put(Row* to, f32x16 v) { store_bf16(to, v); }
#else
    using Row = float;
    using Register = f32xr;
    static constexpr int TURNS = 2;
    template <int TURN>
    INLINE Register columns(u32xr stored) {
        return from_pairs<TURN>(stored);
    }
    INLINE f32xr add(f32xr acc, Register columns, u32xr row) { return fma(columns, (f32xr)row, acc); }
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
    using Register = u32xr;
    static constexpr int PER_STEP = 4;
#if defined(OCTAVO_VNNI)
    using Row = std::conditional_t<ARE_SIGNED, uint8_t, int8_t>;
    static constexpr int TURNS = 1;
    template <int>
    INLINE Register columns(u32xr stored) {
        return stored;
    }
    INLINE i32xr add(i32xr acc, Register columns, u32xr row) {
        return ARE_SIGNED ? dot_quads(acc, row, columns) : dot_quads(acc, columns, row);
    }
#else
    using Row = int16_t;
    static constexpr int TURNS = 2;
    template <int TURN>
    INLINE Register columns(u32xr stored) {
        return ARE_SIGNED ? signed_shorts<TURN>(stored) : unsigned_shorts<TURN>(stored);
    }
    INLINE i32xr add(i32xr acc, Register columns, u32xr row) { return dot_shorts(acc, columns, row); }
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
//
// By registers, not by vectors: what is unrolled of vectors of several, GCC leaves in memory when there is much of it.
template <class Kind, int R, int V, int AHEAD = 0, bool SOON = true>
INLINE void accumulate(
    typename Kind::Sum (&acc)[R][V], const char* rows, size_t row_stride, const char* const (&columns)[V],
    size_t column_step, int steps, const char* const* ahead = nullptr, size_t ahead_step = 64) {
    constexpr size_t ROW_STEP = Kind::PER_STEP * sizeof(typename Kind::Row);
    // All columns meet a row at once if there are registers for them beside the sums, else two and then the next two.
    constexpr int N = V * REGISTERS, AT_ONCE = REGISTERS == 1 || (R + 1) * N < 16 ? N : 2;
    std::decay_t<decltype(part(acc[0][0], 0))> sums[R][N];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int n = 0; n < N; n++) sums[r][n] = part(acc[r][n / REGISTERS], n % REGISTERS);
    for (int i = 0; i < steps; i++) {
#pragma GCC unroll 4
        for (int p = 0; p < AHEAD; p++) prefetch<SOON>(ahead[p] + i * ahead_step);
        const auto turn = [&](auto t) {
#pragma GCC unroll 8
            for (int first = 0; first < N; first += AT_ONCE) {
                typename Kind::Register taken[AT_ONCE];
#pragma GCC unroll 4
                for (int n = 0; n < AT_ONCE; n++) {
                    const int v = (first + n) / REGISTERS, p = (first + n) % REGISTERS;
                    const char* from = columns[v] + i * column_step + p * REGISTER_BYTES;
                    taken[n] = Kind::template columns<t.value>(load_as<u32xr>(from));
                }
#pragma GCC unroll 12
                for (int r = 0; r < R; r++) {
                    const u32xr row = splat_from(rows + r * row_stride + i * ROW_STEP + 4 * t.value);
#pragma GCC unroll 4
                    for (int n = 0; n < AT_ONCE; n++) sums[r][first + n] = Kind::add(sums[r][first + n], taken[n], row);
                }
            }
        };
        turn(Constant<0>());
        if constexpr (Kind::TURNS == 2) turn(Constant<1>());
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int n = 0; n < N; n++) part(acc[r][n / REGISTERS], n % REGISTERS) = sums[r][n];
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
