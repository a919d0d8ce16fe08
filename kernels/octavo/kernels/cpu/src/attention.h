// Attention over paged keys and values.
//
// A context is cut into chunks of CHUNK tokens at fixed places. Of every chunk a row (one query head of one token)
// gets its greatest score, the sum of its weights and the weighted sum of values, and these are merged chunk by
// chunk from the first on (as FlashAttention does, Dao et al., 2022). What a row computes so depends on its own
// position alone: not on the rows beside it, nor on who computes which chunk, nor on how the prompt came in pieces.
#pragma once

#include <algorithm>
#include <cmath>

#include "accumulate.h"
#include "amx.h"
#include "blocks.h"
#include "kernels.h"
#include "vec.h"

namespace OCTAVO_ISA {

using octavo::Attention;
using octavo::AttentionPiece;
using octavo::AttentionTask;
using octavo::MAX_TASK_ROWS;

constexpr float MINUS_INFINITY = -__builtin_inff(), LOG2_E = 1.44269504f;

// Rows and vectors of a tile of weighted sums of values.
constexpr int SUM_VECTORS = TILE_VECTORS == 2 ? 4 : 2;
constexpr int SUM_ROWS = TILE_VECTORS == 2 ? 6 : 2;

// What a row knows after some chunks. sum: of weights, 0 before any. out: [head_dim], the weighted values.
struct RowState {
    float greatest, sum;
    float* out;
};

INLINE float exp(float x) { return exp(splat(x))[0]; }

// The lesser of a row's greatest scores, before and in a chunk, less the other.
INLINE float distance(const RowState& state, float greatest) {
    return state.greatest < greatest ? state.greatest - greatest : greatest - state.greatest;
}

// part: exp of that distance. out(d): 16 of the chunk's weighted values.
template <class Out>
INLINE void merge(RowState& state, float greatest, float sum, float part, int head_dim, const Out& out) {
    if (sum == 0) return;
    if (state.sum == 0) {
        state.greatest = greatest, state.sum = sum;
        for (int d = 0; d < head_dim; d += 16) store(state.out + d, out(d));
        return;
    }
    const bool is_greater = state.greatest < greatest;
    const float before = is_greater ? part : 1, now = is_greater ? 1 : part;
    if (is_greater) state.greatest = greatest;
    state.sum = state.sum * before + sum * now;
    for (int d = 0; d < head_dim; d += 16)
        store(state.out + d, fma(load(state.out + d), splat(before), out(d) * splat(now)));
}

// out of a token's head, in the form of the product that follows.
INLINE void put_output(const Attention& a, int token, int head, const RowState& state) {
    const f32x16 share = splat(1.f / state.sum);
    const size_t at = size_t(token) * a.out_stride + size_t(head) * a.head_dim;
    for (int d = 0; d < a.head_dim; d += 16) {
        f32x16 v = load(state.out + d) * share;
        if (a.out_is_bf16)
            Pair::put(static_cast<Pair::Row*>(a.out) + at + d, v);
        else
            store(static_cast<float*>(a.out) + at + d, v);
    }
}

// One head's place for what a token gets of a chunk. There is one for chunks that the window hides, too: layers differ
// in their windows, and all use the same places.
INLINE float* partial(const Attention& a, int token, int chunk, int head) {
    return a.partials + (size_t(a.first_partial[token] + chunk) * a.num_heads + head) * (a.head_dim + 16);
}

INLINE void begin(f32x16& acc, const QueryScale&) { acc = f32x16{}; }
INLINE void begin(i32x16& acc, const QueryScale& scale) { acc = splat(scale.start); }
INLINE f32x16 as_float(f32x16 v) { return v; }
INLINE f32x16 as_float(i32x16 v) { return to_float(v); }

// Scores of R rows against two blocks, R · 32, each the sum over the head's elements from the first on, which is to be
// multiplied by the row's factor still. key_scales: [32], of blocks of bytes.
template <class Kind, int R>
__attribute__((noinline)) void score_blocks(
    const char* rows, size_t row_stride, const QueryScale* scales, const float* key_scales, const char* left,
    const char* right, const char* const* next, int head_dim, float* scores) {
    const char* blocks[2] = {left, right};
    for (int first = 0; first < 2; first += TILE_VECTORS) {
        typename Kind::Sum acc[R][TILE_VECTORS];
#pragma GCC unroll 12
        for (int r = 0; r < R; r++)
            for (int v = 0; v < TILE_VECTORS; v++) begin(acc[r][v], scales[r]);
        const char* columns[TILE_VECTORS];
        for (int v = 0; v < TILE_VECTORS; v++) columns[v] = blocks[first + v];
        constexpr int AHEAD = TILE_VECTORS == 2 ? 4 : 0;
        accumulate<Kind, R, TILE_VECTORS, AHEAD, false>(
            acc, rows, row_stride, columns, 64, head_dim / Kind::PER_STEP, next, 128);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++)
            for (int v = 0; v < TILE_VECTORS; v++) {
                f32x16 score = as_float(acc[r][v]);
                if constexpr (std::is_same_v<typename Kind::Sum, i32x16>) score *= load(key_scales + (first + v) * 16);
                store(scores + r * CHUNK + (first + v) * 16, score);
            }
    }
}

// Weighted sums of R rows over a chunk's values, for 16 · V elements of the head. out: 4 bytes for each.
template <class Kind, int R, int V>
__attribute__((noinline)) void sum_values(
    const char* weights, size_t row_stride, const char* const* blocks, int first, int last, int head_dim, char* out) {
    typename Kind::Sum acc[R][V];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) acc[r][v] = typename Kind::Sum{};
    const size_t step = size_t(head_dim) * 4;
    for (int b = first; b < last; b++) {
        const char* columns[V];
        for (int v = 0; v < V; v++) columns[v] = blocks[b] + v * 64;
        const char* rows = weights + size_t(b) * BLOCK * sizeof(typename Kind::Row);
        accumulate<Kind>(acc, rows, row_stride, columns, step, BLOCK / Kind::PER_STEP);
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) store_as(out + r * step + v * 64, acc[r][v]);
}

template <class Blocks>
struct Attend {
    using KeyKind = typename Blocks::KeyKind;
    using ValueKind = typename Blocks::ValueKind;
    using Query = typename KeyKind::Row;
    using Weight = typename ValueKind::Row;
    static constexpr int WEIGHT_ROWS = Blocks::WEIGHT_ROWS;
    // Weights that are rounded to 16 bits or fewer.
    static constexpr bool ARE_ROUNDED = !std::is_same_v<KeyKind, Single>;
    static constexpr bool BY_TILES = HAS_TILES && ARE_ROUNDED;
    // That meet a chunk together.
    static constexpr int ROWS = BY_TILES ? MOST_AMX_ROWS : TILE_ROWS;

    const Attention& a;
    const AttentionTask& task;
    const AttentionPiece next;
    const int kv_head, group, num_rows;
    alignas(64) float scores[ROWS][CHUNK];
    alignas(64) Weight weights[ROWS * WEIGHT_ROWS][CHUNK];
    alignas(64) float sums[ROWS * WEIGHT_ROWS * octavo::MAX_HEAD_DIM];
    // By tiles, values of a chunk: of every 16 elements of the head, [CHUNK / p tokens][16][p]; see `gather`.
    alignas(64) char columns[BY_TILES ? CHUNK * octavo::MAX_HEAD_DIM * sizeof(typename Blocks::Element) : 1];
    alignas(64) Query queries[(MAX_TASK_ROWS + 16) * octavo::MAX_HEAD_DIM];
    alignas(64) float outs[MAX_TASK_ROWS * octavo::MAX_HEAD_DIM];
    int positions[MAX_TASK_ROWS];
    QueryScale query_scales[MAX_TASK_ROWS];
    RowState states[MAX_TASK_ROWS];
    // Of blocks of bytes: a chunk's scales; the largest of its values' in all blocks before one; a row's weights' scale.
    alignas(64) float key_scales[CHUNK], value_scales[CHUNK];
    float largest_before[CHUNK / BLOCK + 1] = {};
    float weight_scales[ROWS];
    alignas(64) int32_t integers[CHUNK];  // a row's weights

    // A head's keys and values in as many blocks as a chunk has, to be fetched while a chunk is computed.
    const char* ahead[CHUNK / BLOCK];

    Attend(const Attention& a, AttentionPiece now, AttentionPiece next)
        : a(a),
          task(*now.task),
          next(next),
          kv_head(now.kv_head),
          group(a.num_heads / a.num_kv_heads),
          num_rows(task.num_tokens * group) {}

    int token(int row) const { return task.tokens[row / group]; }
    int head(int row) const { return kv_head * group + row % group; }

    void run() {
        for (int row = 0; row < num_rows; row++) {
            take_query(row);
            states[row] = {MINUS_INFINITY, 0, outs + size_t(row) * a.head_dim};
        }
        for (int chunk = task.first_chunk; chunk < task.last_chunk; chunk++) {
            const char *keys[CHUNK / BLOCK], *values[CHUNK / BLOCK];
            const int* table = task.block_table + chunk * (CHUNK / BLOCK);
            const int num_blocks = std::min(CHUNK / BLOCK, task.num_blocks - chunk * (CHUNK / BLOCK));
            for (int b = 0; b < num_blocks; b++) {
                keys[b] = a.head_of(table[b], kv_head, Blocks::head_bytes(a.head_dim));
                values[b] = keys[b] + BLOCK * a.head_dim * sizeof(typename Blocks::Element);
                if constexpr (Blocks::ARE_BYTES) {
                    const float* scales = Blocks::scales(keys[b], a.head_dim);
                    memcpy(key_scales + b * BLOCK, scales, BLOCK * sizeof(float));
                    memcpy(value_scales + b * BLOCK, scales + BLOCK, BLOCK * sizeof(float));
                    largest_before[b + 1] = std::max(largest_before[b], largest(load(scales + BLOCK)));
                }
            }
            look_ahead(chunk);
            if constexpr (BY_TILES) gather(values, num_blocks);
            for (int row = 0; row < num_rows; row += ROWS)
                tile(chunk, row, std::min(ROWS, num_rows - row), keys, values, num_blocks);
        }
        for (int row = 0; row < num_rows; row++) finish(row);
    }

    void take_query(int row) {
        const char* query = a.query_of(token(row), head(row), Blocks::query_bytes(a.head_dim));
        memcpy(queries + size_t(row) * a.head_dim, query, a.head_dim * sizeof(Query));
        query_scales[row] = Blocks::query_scale(query, a.head_dim);
        query_scales[row].factor *= a.scale;
        positions[row] = a.positions[token(row)];
    }

    void look_ahead(int chunk) {
        constexpr int COUNT = CHUNK / BLOCK;
        const bool here = chunk + 1 < task.last_chunk;
        const AttentionTask& of = here ? task : *next.task;
        const int* table = of.block_table + (here ? chunk + 1 : of.first_chunk) * COUNT;
        const int last = int(of.block_table - table) + of.num_blocks - 1;
        for (int i = 0; i < COUNT; i++) {
            // A chunk whose heads are computed one after another is fetched in the order in which it lies in memory,
            // a part during each head of the chunk before.
            const int at = of.heads_together ? kv_head * COUNT + i : i;
            const int block = of.heads_together ? at / a.num_kv_heads : i;
            const int head = of.heads_together ? at % a.num_kv_heads : here ? kv_head : next.kv_head;
            ahead[i] = a.head_of(table[std::min(block, last)], head, Blocks::head_bytes(a.head_dim));
            if constexpr (Blocks::ARE_BYTES) {
                const float* scales = Blocks::scales(ahead[i], a.head_dim);
                prefetch(scales), prefetch(scales + BLOCK);
            }
        }
    }

    void finish(int row) {
        if (!task.is_partial) return put_output(a, token(row), head(row), states[row]);
        float* to = partial(a, token(row), task.first_chunk, head(row));
        to[0] = states[row].greatest, to[1] = states[row].sum;
        memcpy(to + 16, states[row].out, a.head_dim * sizeof(float));
    }

    // One tile of rows against one chunk.
    void tile(int chunk, int top, int rows, const char* const* keys, const char* const* values, int num_blocks) {
        int from[ROWS], to[ROWS], least = CHUNK, most = 0;
        for (int r = 0; r < rows; r++) {
            const int seen = positions[top + r] + 1 - chunk * CHUNK;
            to[r] = std::min(seen, CHUNK);
            from[r] = a.window ? std::max(seen - a.window, 0) : 0;
            if (from[r] < to[r]) least = std::min(least, from[r]), most = std::max(most, to[r]);
        }
        int first = least / BLOCK, last = std::min((most + BLOCK - 1) / BLOCK, num_blocks);
        if (first >= last) return;
        if constexpr (BY_TILES)
            score_by_tiles(top, rows, keys, first, last, num_blocks);
        else
            score(top, rows, keys, first, last, num_blocks);
        if constexpr (BY_TILES) first = first / STEP * STEP, last = steps_of(last) * STEP;
        float highest[ROWS], greatest[ROWS], sum[ROWS];
        alignas(64) float parts[octavo::whole(ROWS, 16)] = {};
        // Of all rows first: while one's is found, the next one's scores are looked through.
        for (int r = 0; r < rows; r++) {
            highest[r] = highest_score(r, top + r, from[r], to[r]);
            greatest[r] = from[r] < to[r] ? highest[r] * query_scales[top + r].factor : MINUS_INFINITY;
            parts[r] = distance(states[top + r], greatest[r]);
        }
        for (int r = 0; r < rows; r++) sum[r] = weigh(r, top + r, from[r], to[r], first, last, highest[r]);
        for (int r = 0; r < rows; r += 16) store(parts + r, exp(load(parts + r)));
        if constexpr (BY_TILES)
            sum_up_by_tiles(rows, first, last);
        else
            sum_up(rows, values, first, last);
        for (int r = 0; r < rows; r++) {
            const float* of_row = sums + r * WEIGHT_ROWS * a.head_dim;
            merge(states[top + r], greatest[r], sum[r], parts[r], a.head_dim, [&](int d) {
                if constexpr (Blocks::ARE_BYTES) {
                    i32x16 all = load_as<i32x16>(of_row + d);
                    if constexpr (WEIGHT_ROWS == 2) all = (all << 8) + load_as<i32x16>(of_row + a.head_dim + d);
                    return to_float(all) * splat(weight_scales[r]);
                } else {
                    return load(of_row + d);
                }
            });
        }
    }

    const char* queries_of(int top) const { return reinterpret_cast<const char*>(queries + size_t(top) * a.head_dim); }

    void score(int top, int rows, const char* const* keys, int first, int last, int num_blocks) {
        for (int b = first / 2 * 2; b < last; b += 2) {
            // Meanwhile as much of what comes next is fetched.
            const char* next[4] = {ahead[b], ahead[b] + 64, ahead[b + 1], ahead[b + 1] + 64};
            with_constant<TILE_ROWS>(rows, [&](auto n) {
                score_blocks<KeyKind, n.value>(
                    queries_of(top), a.head_dim * sizeof(Query), query_scales + top, key_scales + b * BLOCK, keys[b],
                    keys[std::min(b + 1, num_blocks - 1)], next, a.head_dim, &scores[0][b * BLOCK]);
            });
        }
    }

    void sum_up(int rows, const char* const* values, int first, int last) {
        const int weight_rows = rows * WEIGHT_ROWS;
        for (int r = 0; r < weight_rows; r += SUM_ROWS)
            for (int d = 0; d < a.head_dim; d += 16 * SUM_VECTORS) {
                const char* at[CHUNK / BLOCK];
                for (int b = first; b < last; b++) at[b] = values[b] + d * 4;
                with_constant<SUM_ROWS>(std::min(SUM_ROWS, weight_rows - r), [&](auto n) {
                    with_constant<SUM_VECTORS>(std::min(SUM_VECTORS, (a.head_dim - d) / 16), [&](auto v) {
                        sum_values<ValueKind, n.value, v.value>(
                            reinterpret_cast<const char*>(weights[r]), sizeof weights[0], at, first, last, a.head_dim,
                            reinterpret_cast<char*>(sums + r * a.head_dim + d));
                    });
                });
            }
    }

    // By AMX's tiles.
    void score_by_tiles(int top, int rows, const char* const* keys, int first, int last, int num_blocks) {
        const size_t bytes = a.head_dim * sizeof(Query);
        const int depth = depth_of(bytes);
        // As many rows as there will be of weights, so that shapes stay; those that are too many are not used.
        set_tiles(rows * WEIGHT_ROWS, depth);
        for (int b = first / 2 * 2; b < last; b += 2) {
            const char *left = keys[b], *right = keys[std::min(b + 1, num_blocks - 1)];
            const int lines = depth / 2;  // of what comes next as much as of these: a block's in a step
            sum_tiles<KeyKind>(
                queries_of(top), rows, bytes, depth, int(bytes / depth), true,
                [&](int i) { return TileColumns{left + size_t(i) * depth * BLOCK, right + size_t(i) * depth * BLOCK}; },
                64,
                [&](int i) {
                    if (top) return;  // the first tile has fetched it
                    for (int line = i * lines; line < (i + 1) * lines; line++)
                        prefetch<false>(ahead[b] + line * 64), prefetch<false>(ahead[b + 1] + line * 64);
                },
                &scores[0][b * BLOCK], sizeof scores[0]);
        }
    }

    // So many blocks' values are one step of tiles.
    static constexpr int STEP = 64 / (BLOCK * sizeof(typename Blocks::Element));
    static constexpr int steps_of(int blocks) { return (blocks + STEP - 1) / STEP; }

    // Puts a chunk's values where tiles take whole columns of them from. Lines of a step, of 4 bytes of every column,
    // are in the order of its weights: of bytes, first the first one of every block, see `put_quads`.
    void gather(const char* const* values, int num_blocks) {
        constexpr int LINES = 16 / STEP;
        for (int b = 0; b < steps_of(num_blocks) * STEP; b++) {
            // What no block has is some block's again, and of no weight.
            const char* from = values[std::min(b, num_blocks - 1)];
            for (int line = 0; line < LINES; line++) {
                const int to = Blocks::ARE_BYTES ? b / STEP * 16 + line * STEP + b % STEP : b * LINES + line;
                for (int d = 0; d < a.head_dim; d += 16)
                    store_as(
                        columns_of(d) + to * 64, load_as<u32x16>(from + (size_t(line) * a.head_dim + d) * 4));
            }
        }
    }
    char* columns_of(int d) { return columns + size_t(d) * CHUNK * sizeof(typename Blocks::Element); }

    void sum_up_by_tiles(int rows, int first, int last) {
        const int first_step = first / STEP, last_step = last / STEP, weight_rows = rows * WEIGHT_ROWS;
        set_tiles(weight_rows, 64);
        for (int r = 0; r < weight_rows; r += MOST_AMX_ROWS)
            for (int d = 0; d < a.head_dim; d += 32)
                sum_tiles<ValueKind>(
                    reinterpret_cast<const char*>(weights[r] + first * BLOCK),
                    std::min(MOST_AMX_ROWS, weight_rows - r), sizeof weights[0], 64, last_step - first_step,
                    d + 16 < a.head_dim,
                    [&](int i) {
                        const size_t at = (first_step + i) * 1024;
                        return TileColumns{columns_of(d) + at, columns_of(d + 16) + at};
                    },
                    64, [](int) {}, sums + size_t(r) * a.head_dim + d, a.head_dim * sizeof(float));
    }

    // Calls body(block, whether a row sees it in part only) for the blocks that a row sees, which sees [from, to).
    template <class Body>
    static void for_seen(int from, int to, const Body& body) {
        if (from >= to) return;
        const int end = (to + BLOCK - 1) / BLOCK;
        const int whole_begin = std::min((from + BLOCK - 1) / BLOCK, end), whole_end = to / BLOCK;
        int b = from / BLOCK;
        for (; b < whole_begin; b++) body(b, std::true_type());
        for (; b < whole_end; b++) body(b, std::false_type());
        for (; b < end; b++) body(b, std::true_type());
    }

    // The highest of a row's scores of tokens in [from, to), before its factor. r: in its tile.
    float highest_score(int r, int row, int from, int to) {
        f32x16 most = splat(MINUS_INFINITY);
        for_seen(from, to, [&](int b, auto is_part) {
            f32x16 s = load(scores[r] + b * BLOCK);
            if constexpr (BY_TILES && Blocks::ARE_BYTES) {
                s = to_float((i32x16)s + splat(query_scales[row].start)) * load(key_scales + b * BLOCK);
                store(scores[r] + b * BLOCK, s);
            }
            most = max(is_part.value ? select(is_within(b, from, to), s, most) : s, most);
        });
        return largest(most);
    }

    // Turns a row's scores into weights, 0 where it does not see, in the blocks [first, last). Returns their sum.
    float weigh(int r, int row, int from, int to, int first, int last, float highest) {
        const float factor = query_scales[row].factor;
        const int begin = from < to ? from / BLOCK : first, end = from < to ? (to + BLOCK - 1) / BLOCK : first;
        const f32x16 base = splat(highest * factor * LOG2_E), to_power = splat(factor * LOG2_E);
        f32x16 total = {}, levels;
        if constexpr (Blocks::ARE_BYTES) levels = splat(weight_levels(r, from, to));
        for_seen(from, to, [&](int b, auto is_part) {
            const f32x16 s = load(scores[r] + b * BLOCK);
            f32x16 w = ARE_ROUNDED ? quick_exp2(fma(s, to_power, -base)) : exp((s - splat(highest)) * splat(factor));
            if (is_part.value) w = select(is_within(b, from, to), w, f32x16{});
            total += w;
            if constexpr (Blocks::ARE_BYTES)
                put_weights(r, b, to_nearest(w * load(value_scales + b * BLOCK) * levels));
            else
                ValueKind::put(weights[r] + b * BLOCK, w);
        });
        put_nothing(r, first, begin);
        put_nothing(r, end, last);
        if constexpr (IN_QUADS)
            for (int b = first; b < last; b += STEP) put_quads(r, b);
        return OCTAVO_ISA::sum(total);
    }

    // Which of a block's tokens are in [from, to).
    static i32x16 is_within(int block, int from, int to) {
        alignas(64) static constexpr float RAMP[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        const f32x16 at = load(RAMP) + splat(float(block * BLOCK));
        return (at >= splat(float(from))) & (at < splat(float(to)));
    }

    // What a row's weights, times the scales of the values that they are for, are multiplied by to become integers: the
    // largest of these scales that the row sees, and no other, makes the largest integer. Below LEAST, whose inverse is a
    // number still, all are nothing.
    static constexpr float LEAST = 1e-30f;
    float weight_levels(int r, int from, int to) {
        const int first = (from > 0 ? from : std::max(to, 0)) / BLOCK;
        float most = from > 0 ? 0 : largest_before[first];
        for (int b = first; b * BLOCK < to; b++)
            most = std::max(most, largest(select(is_within(b, from, to), load(value_scales + b * BLOCK), f32x16{})));
        weight_scales[r] = most / Blocks::LARGEST_WEIGHT;
        return most > LEAST ? Blocks::LARGEST_WEIGHT / most : 0;
    }

    // Whether a row's integers are put together first: bytes that tiles multiply.
    static constexpr bool IN_QUADS = BY_TILES && Blocks::ARE_BYTES;

    // A block's weights as integers: in two rows, of their upper and of their lower bytes, where rows are of bytes.
    void put_weights(int r, int block, i32x16 w) {
        if constexpr (IN_QUADS) {
            store_as(integers + block * BLOCK, w);
        } else if constexpr (WEIGHT_ROWS == 2) {
            put(weights[2 * r] + block * BLOCK, w >> 8);
            put(weights[2 * r + 1] + block * BLOCK, w & 255);
        } else {
            put(weights[r] + block * BLOCK, w);
        }
    }
    void put_nothing(int r, int first, int last) {
        if (first >= last) return;
        const size_t count = size_t(last - first) * BLOCK;
        if constexpr (IN_QUADS)
            memset(integers + first * BLOCK, 0, count * sizeof(int32_t));
        else
            for (int i = 0; i < WEIGHT_ROWS; i++)
                memset(weights[r * WEIGHT_ROWS + i] + first * BLOCK, 0, count * sizeof(Weight));
    }

    // A step's integers as two rows of bytes.
    void put_quads(int r, int block) {
        const int at = block * BLOCK;
        if constexpr (IN_QUADS) store_quads(weights[2 * r] + at, weights[2 * r + 1] + at, integers + at);
    }
};

template <class Blocks>
void attend(const Attention& a, AttentionPiece now, AttentionPiece next, void* scratch) {
    static_assert(sizeof(Attend<Blocks>) <= octavo::ATTEND_SCRATCH);
    (new (scratch) Attend<Blocks>(a, now, next))->run();
}

// Merges the chunks of a token that were computed apart.
inline void combine(const Attention& a, int token) {
    alignas(64) float out[octavo::MAX_HEAD_DIM];
    for (int head = 0; head < a.num_heads; head++) {
        RowState state = {MINUS_INFINITY, 0, out};
        for (int chunk = a.first_chunk(token); chunk < a.last_chunk(token); chunk++) {
            const float* of = partial(a, token, chunk, head);
            merge(state, of[0], of[1], exp(distance(state, of[0])), a.head_dim, [&](int d) { return load(of + 16 + d); });
        }
        put_output(a, token, head, state);
    }
}

// Norm (where the family has one) and rotation of one head.
INLINE void turn(const Attention& a, int token, const float* head, const float* norm, float* out) {
    const int dim = a.head_dim, half = a.rotary_dim / 2;
    float factor = 1;
    if (norm) {
        f32x16 squares = {};
        for (int d = 0; d < dim; d += 16) squares = fma(load(head + d), load(head + d), squares);
        factor = 1 / std::sqrt(sum(squares) / dim + a.norm_eps);
    }
    for (int d = 0; d < dim; d += 16)
        store(out + d, norm ? load(head + d) * splat(factor) * load(norm + d) : load(head + d));
    const float *cosines = a.cosines + size_t(token) * half, *sines = a.sines + size_t(token) * half;
    for (int d = 0; d < half; d += 16) {
        const int n = std::min(16, half - d);
        f32x16 c = load_part(cosines + d, n), s = load_part(sines + d, n);
        f32x16 first = load_part(out + d, n), second = load_part(out + half + d, n);
        store_part(out + d, first * c - second * s, n);
        store_part(out + half + d, second * c + first * s, n);
    }
}

// Takes a token's row of queries, keys and values apart: queries go where `attend` reads them, keys and values
// into the token's block.
template <class Blocks>
void store_token(const Attention& a, int token) {
    alignas(64) float head[octavo::MAX_HEAD_DIM];
    const int dim = a.head_dim, slot = a.positions[token] % BLOCK, block = a.new_blocks[token];
    const float* row = a.qkv + token * a.qkv_stride;
    // Another thread may have written what comes next.
    for (size_t i = 0; i < a.qkv_stride; i += 16) prefetch(row + 2 * a.qkv_stride + i);
    for (int h = 0; h < a.num_heads; h++, row += dim) {
        turn(a, token, row, a.query_norm, head);
        Blocks::put_query(a.query_of(token, h, Blocks::query_bytes(dim)), dim, head);
    }
    for (int h = 0; h < a.num_kv_heads; h++, row += dim) {
        turn(a, token, row, a.key_norm, head);
        Blocks::put_key(a.head_of(block, h, Blocks::head_bytes(dim)), dim, slot, head);
    }
    for (int h = 0; h < a.num_kv_heads; h++, row += dim)
        Blocks::put_value(a.head_of(block, h, Blocks::head_bytes(dim)), dim, slot, row);
}

}  // namespace OCTAVO_ISA
