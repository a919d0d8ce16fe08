// Matrix products over packed weights.
//
// Every element of a result is one sum over k, from 0 on, in one accumulator, however many rows are computed
// together: a row's result does not depend on what runs beside it. A tile of MOST_ROWS × PANEL results stays in
// registers for the whole of k.
#pragma once

#include <algorithm>

#include "accumulate.h"
#include "amx.h"
#include "kernels.h"
#include "vec.h"

namespace OCTAVO_ISA {

using octavo::Ahead;
using octavo::Linear;
using octavo::PANEL;
using octavo::Product;

template <int R>
using Tile = f32x16[R][2];

// How many of a panel's two vectors of columns R rows are multiplied with at once. Few rows have registers for both, and go
// through a panel once, in the order in which it comes from memory.
template <int R>
constexpr int VECTORS = 2 * R <= TILE_ROWS ? 2 : TILE_VECTORS;

// How far ahead of a single tile of rows, which waits for memory only, weights are fetched.
constexpr size_t AHEAD_BYTES = 2048;

// With AVX-512, memory has time to spare while a tile of rows meets a panel that is in the cache. Otherwise only what is
// needed at once is fetched.
constexpr bool HAS_TIME_TO_FETCH = TILE_VECTORS == 2;

// See `Product::row_block`. Tiles multiply so fast that weights should come by seldom.
constexpr size_t ROW_BLOCK_BYTES = HAS_TILES ? 640 << 10 : 0;

INLINE f32x16 tanh(f32x16 x) {
    f32x16 e = exp(x + x);
    return splat(1.f) - splat(2.f) / (e + splat(1.f));
}

// Abramowitz and Stegun, 7.1.26: within 1.5e-7.
INLINE f32x16 erf(f32x16 x) {
    f32x16 magnitude = max(x, -x);
    f32x16 t = splat(1.f) / fma(magnitude, splat(0.3275911f), splat(1.f));
    f32x16 p = splat(1.061405429f);
    p = fma(p, t, splat(-1.453152027f));
    p = fma(p, t, splat(1.421413741f));
    p = fma(p, t, splat(-0.284496736f));
    p = fma(p, t, splat(0.254829592f));
    f32x16 y = splat(1.f) - p * t * exp(-magnitude * magnitude);
    return select(x < f32x16{}, -y, y);
}

INLINE f32x16 activate(f32x16 x, octavo::Activation activation) {
    switch (activation) {
        case octavo::SILU:
            return x / (splat(1.f) + exp(-x));
        case octavo::GELU:
            return splat(0.5f) * x * (splat(1.f) + erf(x * splat(0.70710678f)));
        default:
            return splat(0.5f) * x * (splat(1.f) + tanh(splat(0.79788456f) * fma(x * x * x, splat(0.044715f), x)));
    }
}

// Where a panel's results go.
struct Place {
    char* first;
    size_t row_bytes;  // from one row to the next
};
INLINE Place place(const Product& p, int row, int panel) {
    const bool gated = p.finish == octavo::GATE;
    const size_t size = gated && p.out_is_bf16 ? sizeof(Pair::Row) : sizeof(float), width = gated ? PANEL / 2 : PANEL;
    return {static_cast<char*>(p.out) + (row * p.out_stride + panel * width) * size, p.out_stride * size};
}

// Puts a tile where it belongs.
template <int R>
INLINE void finish(const Product& p, Place out, int panel, Tile<R>& result) {
    if (const float* bias = p.linear->bias) {
        const f32x16 left = load(bias + size_t(panel) * PANEL), right = load(bias + size_t(panel) * PANEL + 16);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) result[r][0] += left, result[r][1] += right;
    }
    const auto row = [&](int r) { return reinterpret_cast<float*>(out.first + r * out.row_bytes); };
    if (p.finish == octavo::STORE) {
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) store(row(r), result[r][0]), store(row(r) + 16, result[r][1]);
    } else if (p.finish == octavo::ADD) {
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            store(row(r), load(row(r)) + result[r][0]);
            store(row(r) + 16, load(row(r) + 16) + result[r][1]);
        }
    } else {
        // A loop over rows, for which they go through memory: only here.
        Tile<R> rows;
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) rows[r][0] = result[r][0], rows[r][1] = result[r][1];
#pragma GCC unroll 1
        for (int r = 0; r < R; r++) {
            const f32x16 gated = activate(rows[r][0], p.activation) * rows[r][1];
            if (p.out_is_bf16)
                Pair::put(reinterpret_cast<Pair::Row*>(row(r)), gated);
            else
                store(row(r), gated);
        }
    }
}

// A panel as [k / p][32][p]: float32 with p = 1, bfloat16 with 2, bytes with 4.
template <class Kind>
struct WholePanels {
    // With AVX-512 8 rows are faster than the 12 that there are registers for, however many there are.
    static constexpr int MOST_ROWS = std::min(TILE_ROWS, 8);
    static constexpr int tile_rows(int) { return MOST_ROWS; }
    // Without AVX-512, a single row's next weights are fetched by the processor itself, and where rows are many, a fetch
    // for each tile would push weights out of the cache that are in use.
    static constexpr bool fetches(int rows, int tile) { return HAS_TIME_TO_FETCH || (rows > 1 && tile < 2); }
    // How many of several tiles fetch the next panel, an equal part each.
    static constexpr int TILES_OF_NEXT = 2;

    // Adds up all of a tile, or the vectors of columns from v on that there are registers for.
    template <int R, int V>
    INLINE void sum_panel(
        typename Kind::Sum (&acc)[R][V], const char* a, size_t stride, const char* panel, int k, const char* ahead,
        bool alone, int v) {
        const char* columns[V];
        for (int c = 0; c < V; c++) columns[c] = panel + 64 * (v + c);
        const char* lines[2] = {ahead + 64 * v, ahead + 64};
        const int steps = k / Kind::PER_STEP;
        if (!HAS_TIME_TO_FETCH && !ahead)
            accumulate<Kind, R, V>(acc, a, stride, columns, 4 * PANEL, steps);
        else if (alone || !HAS_TIME_TO_FETCH)
            // Used as fast as memory gives it: both lines of every step are fetched.
            accumulate<Kind, R, V, V>(acc, a, stride, columns, 4 * PANEL, steps, lines, 128);
        else
            accumulate<Kind, R, V, 1, false>(acc, a, stride, columns, 4 * PANEL, steps, lines, 64);
    }
};

template <class K>
struct PlainForm : WholePanels<K> {
    using Kind = K;
    // Pairs are added up by tiles in an order of their own: for one row as for many.
    static constexpr int LEAST_TILE_ROWS = HAS_TILES && std::is_same_v<Kind, Pair> ? 1 : NEVER;

    static constexpr size_t panel_bytes(int k) { return size_t(k) * PANEL * sizeof(typename Kind::Column); }
    static constexpr size_t row_bytes(int k) { return k * sizeof(typename Kind::Row); }

    template <int R>
    INLINE void tile(
        const char* a, size_t stride, const char* panel, int k, const char* ahead, bool alone, Tile<R>& result) {
        constexpr int V = VECTORS<R>;
        for (int v = 0; v < 2; v += V) {
            f32x16 acc[R][V] = {};
            WholePanels<Kind>::sum_panel(acc, a, stride, panel, k, ahead, alone, v);
#pragma GCC unroll 12
            for (int r = 0; r < R; r++)
                for (int c = 0; c < V; c++) result[r][v + c] = acc[r][c];
        }
    }
    INLINE f32x16 result_of(f32x16 sum, const char*, const char*, int, int) { return sum; }
};
using F32Form = PlainForm<Single>;
using BF16Form = PlainForm<Pair>;

// Has the lines that a tile's results go to fetched meanwhile: they are in the cache of whoever wrote there last.
template <int R>
INLINE void expect(Place out, bool gated) {
    for (int r = 0; r < R; r++, out.first += out.row_bytes) {
        prefetch_to_write(out.first);
        if (!gated) prefetch_to_write(out.first + 64);
    }
}

// alone: no other tile of rows meets this panel. Not inlined, so that the compiler gives every size of a tile its own
// registers.
template <class Form, int R>
__attribute__((noinline)) void compute(
    const Product& p, int row, int panel, const char* a, const char* weights, const char* ahead, bool alone) {
    const Place out = place(p, row, panel);
    if (HAS_TIME_TO_FETCH) expect<R>(out, p.finish == octavo::GATE);
    Tile<R> result;
    Form::template tile<R>(a, p.a_stride, weights, p.linear->k, ahead, alone, result);
    finish<R>(p, out, panel, result);
}

// Computes a panel's product with `rows` rows from row `top` on. next: the panel that is fetched meanwhile.
template <class Form>
INLINE void product_by_vectors(
    const Product& p, int top, int rows, int panel, const char* now, const char* next, Ahead& ahead) {
    const size_t panel_bytes = Form::panel_bytes(p.linear->k);
    // Tiles are as even as can be, not all but the last one as large as can be.
    const int most = Form::tile_rows(rows), tiles = (rows + most - 1) / most;
    for (int t = 0; t < tiles; t++) {
        const int from = rows * t / tiles, to = rows * (t + 1) / tiles;
        const char* a = static_cast<const char*>(p.a) + (top + from) * p.a_stride;
        const char* fetched = tiles == 1 ? now + AHEAD_BYTES : next + panel_bytes * std::min(t, 1) / 2;
        // Tiles that the next panel does not need fetch keys and values.
        if (!Form::fetches(rows, t))
            fetched = nullptr;
        else if (HAS_TIME_TO_FETCH && t >= Form::TILES_OF_NEXT)
            if (const char* keys = ahead.take(panel_bytes / Form::TILES_OF_NEXT)) fetched = keys;
        with_constant<Form::MOST_ROWS>(to - from, [&](auto n) {
            compute<Form, n.value>(p, top + from, panel, a, now, fetched, tiles == 1);
        });
    }
}

// A panel goes by tiles a slice of k after the other: one that the first-level cache keeps, 36 KiB of 48, while all tiles
// of rows meet it.
constexpr int SLICE_STEPS = 18;

// The same by AMX's tiles. What comes from memory the processor fetches well enough by itself.
template <class Form>
INLINE void product_by_tiles(const Product& p, int top, int rows, int panel, const char* now) {
    using Kind = typename Form::Kind;
    using Sum = typename Kind::Sum;
    const int k = p.linear->k, depth = depth_of(Form::row_bytes(k)), steps = int(Form::row_bytes(k) / depth);
    const size_t step_bytes = size_t(depth) * PANEL;
    const int count = (rows + MOST_AMX_ROWS - 1) / MOST_AMX_ROWS;
    const int slices = count == 1 ? 1 : (steps + SLICE_STEPS - 1) / SLICE_STEPS;
    const Place out = place(p, top, panel);
    const auto first_of = [&](int tile) { return rows * tile / count; };  // row of the block
    const auto row_of = [&](int row) { return static_cast<const char*>(p.a) + (top + row) * p.a_stride; };

    // Floats that are only added up are so where they belong, others in a place of their own first.
    const float* bias = p.linear->bias;
    const bool is_sum = p.finish == octavo::STORE || (p.finish == octavo::ADD && !bias);
    const bool in_place = std::is_same_v<Kind, Pair> && is_sum;
    alignas(64) Sum sums[octavo::MOST_ROW_BLOCK][PANEL / 16];
    const auto sums_of = [&](int tile) { return sums + (slices == 1 ? 0 : first_of(tile)); };

    const auto finish_tile = [&](int tile) {
        constexpr int AT_ONCE = 4;
        const Sum(*of)[PANEL / 16] = sums_of(tile);
        const int last = first_of(tile + 1);
        for (int row = first_of(tile); row < last; row += AT_ONCE, of += AT_ONCE)
            with_constant<AT_ONCE>(std::min(AT_ONCE, last - row), [&](auto n) {
                Tile<n.value> result;
                for (int r = 0; r < n.value; r++)
                    for (int v = 0; v < 2; v++) result[r][v] = Form::result_of(of[r][v], row_of(row + r), now, k, v);
                finish<n.value>(p, {out.first + row * out.row_bytes, out.row_bytes}, panel, result);
            });
    };

    set_tiles(rows, depth);
    for (int slice = 0; slice < slices; slice++) {
        const int first = steps * slice / slices, num_steps = steps * (slice + 1) / slices - first;
        const char* columns = now + first * step_bytes;
        for (int t = 0; t < count; t++) {
            const int from = first_of(t), to = first_of(t + 1);
            const Place at = in_place ? Place{out.first + from * out.row_bytes, out.row_bytes}
                                      : Place{reinterpret_cast<char*>(sums_of(t)), sizeof sums[0]};
            Start start;
            if (slice || (in_place && p.finish == octavo::ADD))
                start = {at.first, at.row_bytes};
            else if (in_place && bias)
                start = {reinterpret_cast<const char*>(bias + size_t(panel) * PANEL), 0};
            const auto multiply = [&](auto has_others) {
                sum_tiles<Kind, has_others.value>(
                    row_of(from) + size_t(first) * depth, to - from, p.a_stride, depth, num_steps, true,
                    [&](int i) { return TileColumns{columns + i * step_bytes, columns + i * step_bytes + 64}; },
                    4 * PANEL, [](int) {}, at.first, at.row_bytes, start);
            };
            count == 1 ? multiply(std::false_type()) : multiply(std::true_type());
            if (!in_place && slice + 1 == slices) finish_tile(t);
        }
    }
}

// Computes the parts [first, last): of `Product::parts`, all panels of the first block of rows, then of the next.
template <class Form>
void product(const Product& p, int first, int last, Ahead& ahead) {
    const int panels = p.linear->panels();
    const int row_block = p.row_block(ROW_BLOCK_BYTES);
    const size_t panel_bytes = Form::panel_bytes(p.linear->k);
    const char* weights = static_cast<const char*>(p.linear->data);
    for (int part = first; part < last; part++) {
        const int top = part / panels * row_block, panel = part % panels;
        const int rows = std::min(row_block, p.rows - top);
        const char* now = weights + panel * panel_bytes;
        // The next panel is fetched while this one, which is in the cache by then, meets its other rows.
        const char* next = panel + 1 < panels ? now + panel_bytes : weights;
        if (part + 1 == last && ahead.weights) next = ahead.weights;
        constexpr int LEAST = Form::LEAST_TILE_ROWS;
        if constexpr (LEAST != NEVER)
            if (rows >= LEAST) {
                product_by_tiles<Form>(p, top, rows, panel, now);
                continue;
            }
        if constexpr (LEAST > 1) product_by_vectors<Form>(p, top, rows, panel, now, next, ahead);
    }
}

}  // namespace OCTAVO_ISA
