// Products by AMX: an instruction multiplies two tiles, matrices of up to 16 rows of up to 64 bytes, and adds the
// result to a third one, of 16 × 16 numbers of 32 bits.
//
// What it does with a row does not depend on the other rows of its tile, so results are as `accumulate`'s: the same
// whatever is computed together. Of bytes they are the same numbers. Pairs of bfloat16 are added up 16 at a time, the
// first and the second ones apart, before they are added to the sum.
#pragma once

#include <type_traits>

#include "accumulate.h"

namespace OCTAVO_ISA {

#if defined(__AMX_TILE__)
constexpr bool HAS_TILES = true;
#else
constexpr bool HAS_TILES = false;
#endif

// Of a tile; and of what `sum_tiles` makes with four of them.
constexpr int AMX_ROWS = 16, MOST_AMX_ROWS = 2 * AMX_ROWS;

// How many rows a product has at least that goes by tiles, where none does.
constexpr int NEVER = 0x7fffffff;

// How many bytes of a row are multiplied at once, of rows of so many: all have to be whole steps.
constexpr int depth_of(size_t row_bytes) { return row_bytes % 64 == 0 ? 64 : row_bytes % 32 == 0 ? 32 : 16; }

// Where a step's columns are, 16 of them and the next 16.
struct TileColumns {
    const char *left, *right;
};

// What sums start from, its rows `stride` bytes apart; null for 0.
struct Start {
    const char* first = nullptr;
    size_t stride = 0;
};

#if defined(__AMX_TILE__)

// The shapes of a thread's tiles: 0 to 3 hold sums, 4 and 5 rows, 6 and 7 columns. To set them takes as long as a dozen
// products of tiles, so they stay until the thread lets go of them.
struct TileShapes {
    int rows, depth;
};
inline thread_local TileShapes tile_shapes = {};

// rows: that will be multiplied, of which a tile has 16 at most. depth: bytes of each in a step.
INLINE void set_tiles(int rows, int depth) {
    if (rows > AMX_ROWS) rows = AMX_ROWS;
    TileShapes& now = tile_shapes;
    if (rows == now.rows && depth == now.depth) return;
    now = {rows, depth};
    struct alignas(64) {
        uint8_t palette, start_row, unused[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shapes = {};
    shapes.palette = 1;
    for (int t = 0; t < 8; t++) {
        shapes.row_bytes[t] = t == 4 || t == 5 ? depth : 64;
        shapes.rows[t] = t < 6 ? rows : depth / 4;
    }
    asm volatile("ldtilecfg %0" : : "m"(shapes));
}

// So that nobody need save them.
inline void release_tiles() {
    if (tile_shapes.rows) asm volatile("tilerelease" : : : "memory");
    tile_shapes = {};
}

// As assembly, as the compiler's own do not say that they read memory.
template <int TILE>
INLINE void clear_tile() {
    asm volatile("tilezero %%tmm%c0" : : "i"(TILE));
}
// ONCE: it will not be needed again soon, and leaves the first-level cache to what will.
template <int TILE, bool ONCE = false>
INLINE void load_tile(const void* from, size_t stride) {
    if constexpr (ONCE)
        asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(TILE) : "memory");
    else
        asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(TILE) : "memory");
}
template <int TILE>
INLINE void store_tile(void* to, size_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(TILE) : "memory");
}
template <class Kind, int SUM, int ROWS, int COLUMNS>
INLINE void multiply_tiles() {
    if constexpr (std::is_same_v<Kind, Pair>)
        asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUM), "i"(ROWS), "i"(COLUMNS));
    else if constexpr (std::is_same_v<Kind, UnsignedColumns>)
        asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUM), "i"(ROWS), "i"(COLUMNS));
    else if constexpr (std::is_same_v<Kind, SignedColumns>)
        asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUM), "i"(ROWS), "i"(COLUMNS));
    else
        static_assert(std::is_same_v<Kind, Pair>, "no such tiles are used");
}

template <class Kind, bool MORE_ROWS, bool RIGHT, bool ONCE, class Columns, class Fetch>
INLINE void sum_tiles(
    const char* rows, const char* more_rows, size_t row_stride, int depth, int steps, const Columns& columns,
    size_t column_stride, const Fetch& fetch, Start start, const char* more_start, char* to, char* more_to,
    size_t to_stride) {
    if (start.first) {
        load_tile<0>(start.first, start.stride);
        if constexpr (RIGHT) load_tile<1>(start.first + 64, start.stride);
        if constexpr (MORE_ROWS) load_tile<2>(more_start, start.stride);
        if constexpr (MORE_ROWS && RIGHT) load_tile<3>(more_start + 64, start.stride);
    } else {
        clear_tile<0>();
        if constexpr (RIGHT) clear_tile<1>();
        if constexpr (MORE_ROWS) clear_tile<2>();
        if constexpr (MORE_ROWS && RIGHT) clear_tile<3>();
    }
    for (int i = 0; i < steps; i++) {
        const TileColumns at = columns(i);
        fetch(i);
        load_tile<4, ONCE>(rows + size_t(i) * depth, row_stride);
        load_tile<6>(at.left, column_stride);
        multiply_tiles<Kind, 0, 4, 6>();
        if constexpr (RIGHT) {
            load_tile<7>(at.right, column_stride);
            multiply_tiles<Kind, 1, 4, 7>();
        }
        if constexpr (MORE_ROWS) {
            load_tile<5, ONCE>(more_rows + size_t(i) * depth, row_stride);
            multiply_tiles<Kind, 2, 5, 6>();
            if constexpr (RIGHT) multiply_tiles<Kind, 3, 5, 7>();
        }
    }
    store_tile<0>(to, to_stride);
    if constexpr (RIGHT) store_tile<1>(to + 64, to_stride);
    if constexpr (MORE_ROWS) store_tile<2>(more_to, to_stride);
    if constexpr (MORE_ROWS && RIGHT) store_tile<3>(more_to + 64, to_stride);
}

// to[r][c] = start[r][c] + Σᵢ row r's step i · column c of columns(i), for up to MOST_AMX_ROWS rows and 16 columns, or
// 32 if there are some on the right. Tiles have to be set to these rows and this depth. Each stretch of 4 bytes of a
// row's step has its columns' at their own row, `column_stride` bytes after the last. Numbers of `to` and of what it
// starts from are 4 bytes, rows of `to` `to_stride` bytes apart. ONCE: columns will be needed again before these rows
// are. fetch(i): called once a step, for what is to come from memory.
template <class Kind, bool ONCE = false, class Columns, class Fetch>
INLINE void sum_tiles(
    const char* rows, int num_rows, size_t row_stride, int depth, int steps, bool right, const Columns& columns,
    size_t column_stride, const Fetch& fetch, void* to, size_t to_stride, Start start = {}) {
    // A second tile's rows may be some of the first one's again, which are computed twice, alike.
    const size_t second = num_rows > AMX_ROWS ? num_rows - AMX_ROWS : 0;
    const char *more_rows = rows + second * row_stride, *more_start = start.first + second * start.stride;
    char *out = static_cast<char*>(to), *more_out = out + second * to_stride;
    const auto with = [&](auto has_more, auto has_right) {
        sum_tiles<Kind, has_more.value, has_right.value, ONCE>(
            rows, more_rows, row_stride, depth, steps, columns, column_stride, fetch, start, more_start, out, more_out,
            to_stride);
    };
    if (second)
        right ? with(std::true_type(), std::true_type()) : with(std::true_type(), std::false_type());
    else
        right ? with(std::false_type(), std::true_type()) : with(std::false_type(), std::false_type());
}

#else

inline void release_tiles() {}

// Named where there are tiles only.
void set_tiles(int rows, int depth);
template <class Kind, bool ONCE = false, class Columns, class Fetch>
void sum_tiles(
    const char* rows, int num_rows, size_t row_stride, int depth, int steps, bool right, const Columns& columns,
    size_t column_stride, const Fetch& fetch, void* to, size_t to_stride, Start start = {});

#endif

}  // namespace OCTAVO_ISA
