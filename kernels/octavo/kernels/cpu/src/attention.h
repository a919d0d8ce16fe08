// Attention over paged keys and values.
//
// A context is cut into chunks of CHUNK tokens at fixed places. Of every chunk a row (one query head of one token)
// gets its greatest score, the sum of its weights and the weighted sum of values, and these are merged chunk by
// chunk from the first on (as FlashAttention does, Dao et al., 2022). What a row computes so depends on its own
// position alone: not on the rows beside it, nor on who computes which chunk, nor on how the prompt came in pieces.
#pragma once

#include <cmath>

#include "accumulate.h"
#include "blocks.h"
#include "kernels.h"
#include "vec.h"

namespace OCTAVO_ISA {

using octavo::Attention;
using octavo::AttentionTask;
using octavo::MAX_TASK_ROWS;

constexpr float MINUS_INFINITY = -__builtin_inff();

// Rows and vectors of a tile of weighted sums of values.
constexpr int SUM_VECTORS = TILE_VECTORS == 2 ? 4 : 2;
constexpr int SUM_ROWS = TILE_VECTORS == 2 ? 6 : 2;

// What a row knows after some chunks. sum: of weights, 0 before any. out: [head_dim], the weighted values.
struct RowState {
    float greatest, sum;
    float* out;
};

INLINE float exp(float x) { return exp(splat(x))[0]; }

INLINE void merge(RowState& state, float greatest, float sum, const float* out, int head_dim) {
    if (sum == 0) return;
    if (state.sum == 0) {
        state.greatest = greatest, state.sum = sum;
        memcpy(state.out, out, head_dim * sizeof(float));
        return;
    }
    const float both = state.greatest > greatest ? state.greatest : greatest;
    const float before = exp(state.greatest - both), now = exp(greatest - both);
    state.greatest = both;
    state.sum = state.sum * before + sum * now;
    for (int d = 0; d < head_dim; d += 16)
        store(state.out + d, fma(load(state.out + d), splat(before), load(out + d) * splat(now)));
}

// out of a token's head, in the form of the product that follows.
INLINE void put_output(const Attention& a, int token, int head, const RowState& state) {
    const f32x16 share = splat(1.f / state.sum);
    const size_t at = size_t(token) * a.out_stride + size_t(head) * a.head_dim;
    for (int d = 0; d < a.head_dim; d += 16) {
        f32x16 v = load(state.out + d) * share;
        if (a.out_is_bf16)
            store_bf16(static_cast<uint16_t*>(a.out) + at + d, v);
        else
            store(static_cast<float*>(a.out) + at + d, v);
    }
}

// One head's place for what a token gets of a chunk. There is one for chunks that the window hides, too: layers differ
// in their windows, and all use the same places.
INLINE float* partial(const Attention& a, int token, int chunk, int head) {
    return a.partials + (size_t(a.first_partial[token] + chunk) * a.num_heads + head) * (a.head_dim + 16);
}

// Scores of R rows against two blocks, R · 32, each the sum over the head's elements from the first on.
template <class Kind, int R>
__attribute__((noinline)) void score_blocks(
    const char* rows, size_t row_stride, const char* left, const char* right, const char* const* next,
    int head_dim, float scale, float* scores) {
    f32x16 acc[R][2] = {};
    if constexpr (TILE_VECTORS == 2) {
        const char* blocks[2] = {left, right};
        accumulate<Kind, R, 2, 4>(acc, rows, row_stride, blocks, 64, head_dim / Kind::PER_STEP, next);
    } else {
        for (int v = 0; v < 2; v++) {
            f32x16 one[R][1] = {};
            const char* block[1] = {v ? right : left};
            accumulate<Kind>(one, rows, row_stride, block, 64, head_dim / Kind::PER_STEP);
            for (int r = 0; r < R; r++) acc[r][v] = one[r][0];
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < 2; v++) store(scores + r * CHUNK + v * 16, acc[r][v] * splat(scale));
}

// Weighted sums of R rows over a chunk's values, for 16 · V elements of the head.
template <class Kind, int R, int V>
__attribute__((noinline)) void sum_values(
    const char* weights, size_t row_stride, const char* const* blocks, int first, int last, int head_dim, float* out) {
    f32x16 acc[R][V] = {};
    const size_t step = size_t(head_dim) * 4;
    for (int b = first; b < last; b++) {
        const char* columns[V];
        for (int v = 0; v < V; v++) columns[v] = blocks[b] + v * 64;
        const char* rows = weights + size_t(b) * BLOCK * sizeof(typename Kind::Element);
        accumulate<Kind>(acc, rows, row_stride, columns, step, BLOCK / Kind::PER_STEP);
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) store(out + size_t(r) * head_dim + v * 16, acc[r][v]);
}

template <class Blocks>
struct Attend {
    using Kind = typename Blocks::Kind;
    using Element = typename Kind::Element;

    const Attention& a;
    const AttentionTask& task;
    const int kv_head, group, num_rows;
    alignas(64) float scores[TILE_ROWS][CHUNK];
    alignas(64) Element weights[TILE_ROWS][CHUNK];
    alignas(64) float sums[TILE_ROWS * octavo::MAX_HEAD_DIM];
    alignas(64) Element queries[MAX_TASK_ROWS * octavo::MAX_HEAD_DIM];
    alignas(64) float outs[MAX_TASK_ROWS * octavo::MAX_HEAD_DIM];
    RowState states[MAX_TASK_ROWS];
    // Of blocks of bytes: a chunk's keys and values as they are computed, and their scales.
    alignas(64) Element wide[Blocks::ARE_BYTES ? 2 * CHUNK * octavo::MAX_HEAD_DIM : 1];
    alignas(64) float key_scales[CHUNK], value_scales[CHUNK];

    Attend(const Attention& a, const AttentionTask& task, int kv_head)
        : a(a), task(task), kv_head(kv_head), group(a.num_heads / a.num_kv_heads), num_rows(task.num_tokens * group) {}

    int token(int row) const { return task.tokens[row / group]; }
    int head(int row) const { return kv_head * group + row % group; }

    void run() {
        const size_t query_bytes = a.head_dim * sizeof(Element);
        for (int row = 0; row < num_rows; row++) {
            const char* query = static_cast<const char*>(a.queries) + token(row) * a.query_stride * sizeof(Element);
            memcpy(queries + size_t(row) * a.head_dim, query + head(row) * query_bytes, query_bytes);
            states[row] = {MINUS_INFINITY, 0, outs + size_t(row) * a.head_dim};
        }
        for (int chunk = task.first_chunk; chunk < task.last_chunk; chunk++) {
            const char *keys[CHUNK / BLOCK], *values[CHUNK / BLOCK];
            const int* table = task.block_table + chunk * (CHUNK / BLOCK);
            const int num_blocks = std::min(CHUNK / BLOCK, task.num_blocks - chunk * (CHUNK / BLOCK));
            for (int b = 0; b < num_blocks; b++) {
                char* head = a.head_of(table[b], kv_head, Blocks::head_bytes(a.head_dim));
                if constexpr (Blocks::ARE_BYTES) head = widen(b, head);
                keys[b] = head;
                values[b] = head + BLOCK * query_bytes;
            }
            for (int row = 0; row < num_rows; row += TILE_ROWS)
                tile(chunk, row, std::min(TILE_ROWS, num_rows - row), keys, values, num_blocks);
        }
        for (int row = 0; row < num_rows; row++) finish(row);
    }

    char* widen(int b, char* head) {
        Element* to = wide + size_t(2) * BLOCK * b * a.head_dim;
        Blocks::widen(head, a.head_dim, to);
        const float* scales = Blocks::scales(head, a.head_dim);
        memcpy(key_scales + b * BLOCK, scales, BLOCK * sizeof(float));
        memcpy(value_scales + b * BLOCK, scales + BLOCK, BLOCK * sizeof(float));
        return reinterpret_cast<char*>(to);
    }

    void finish(int row) {
        if (!task.is_partial) return put_output(a, token(row), head(row), states[row]);
        float* to = partial(a, token(row), task.first_chunk, head(row));
        to[0] = states[row].greatest, to[1] = states[row].sum;
        memcpy(to + 16, states[row].out, a.head_dim * sizeof(float));
    }

    // One tile of rows against one chunk.
    void tile(int chunk, int top, int rows, const char* const* keys, const char* const* values, int num_blocks) {
        int from[TILE_ROWS], to[TILE_ROWS], least = CHUNK, most = 0;
        for (int r = 0; r < rows; r++) {
            const int seen = a.positions[token(top + r)] + 1 - chunk * CHUNK;
            to[r] = std::min(seen, CHUNK);
            from[r] = a.window ? std::max(seen - a.window, 0) : 0;
            if (from[r] < to[r]) least = std::min(least, from[r]), most = std::max(most, to[r]);
        }
        const int first = least / BLOCK, last = std::min((most + BLOCK - 1) / BLOCK, num_blocks);
        if (first >= last) return;
        const char* tile_queries = reinterpret_cast<const char*>(queries + size_t(top) * a.head_dim);
        for (int b = first / 2 * 2; b < last; b += 2) {
            // The next two blocks, keys and values, are fetched while these are computed.
            const int third = std::min(b + 2, num_blocks - 1), fourth = std::min(b + 3, num_blocks - 1);
            const char* next[4] = {keys[third], values[third], keys[fourth], values[fourth]};
            with_constant<TILE_ROWS>(rows, [&](auto n) {
                score_blocks<Kind, n.value>(
                    tile_queries, a.head_dim * sizeof(Element), keys[b], keys[std::min(b + 1, num_blocks - 1)], next,
                    a.head_dim, a.scale, &scores[0][b * BLOCK]);
            });
        }
        float greatest[TILE_ROWS], sum[TILE_ROWS];
        for (int r = 0; r < rows; r++) weigh(r, from[r], to[r], first, last, greatest[r], sum[r]);
        for (int r = 0; r < rows; r += SUM_ROWS)
            for (int d = 0; d < a.head_dim; d += 16 * SUM_VECTORS) {
                const char* at[CHUNK / BLOCK];
                for (int b = first; b < last; b++) at[b] = values[b] + d * 4;
                with_constant<SUM_ROWS>(std::min(SUM_ROWS, rows - r), [&](auto n) {
                    with_constant<SUM_VECTORS>(std::min(SUM_VECTORS, (a.head_dim - d) / 16), [&](auto v) {
                        sum_values<Kind, n.value, v.value>(
                            reinterpret_cast<const char*>(weights[r]), sizeof weights[0], at, first, last, a.head_dim,
                            sums + r * a.head_dim + d);
                    });
                });
            }
        for (int r = 0; r < rows; r++)
            merge(states[top + r], greatest[r], sum[r], sums + r * a.head_dim, a.head_dim);
    }

    // Turns a row's scores into weights, 0 where it does not see.
    void weigh(int r, int from, int to, int first, int last, float& greatest, float& sum) {
        const f32x16 ramp = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        f32x16 most = splat(MINUS_INFINITY), total = {};
        for (int b = first; b < last; b++) {
            f32x16 s = load(scores[r] + b * BLOCK);
            if (Blocks::ARE_BYTES) {
                s *= load(key_scales + b * BLOCK);
                store(scores[r] + b * BLOCK, s);
            }
            if (from > b * BLOCK || to < (b + 1) * BLOCK) {
                f32x16 at = ramp + splat(float(b * BLOCK));
                s = (at >= splat(float(from))) & (at < splat(float(to))) ? s : splat(MINUS_INFINITY);
                store(scores[r] + b * BLOCK, s);
            }
            most = max(most, s);
        }
        greatest = largest(most);
        const f32x16 base = splat(greatest == MINUS_INFINITY ? 0.f : greatest);
        for (int b = first; b < last; b++) {
            f32x16 w = exp(load(scores[r] + b * BLOCK) - base);
            total += w;
            Kind::put(weights[r] + b * BLOCK, Blocks::ARE_BYTES ? w * load(value_scales + b * BLOCK) : w);
        }
        sum = OCTAVO_ISA::sum(total);
    }
};

template <class Blocks>
void attend(const Attention& a, const AttentionTask& task, int kv_head, void* scratch) {
    static_assert(sizeof(Attend<Blocks>) <= octavo::ATTEND_SCRATCH);
    (new (scratch) Attend<Blocks>(a, task, kv_head))->run();
}

// Merges the chunks of a token that were computed apart.
inline void combine(const Attention& a, int token) {
    alignas(64) float out[octavo::MAX_HEAD_DIM];
    for (int head = 0; head < a.num_heads; head++) {
        RowState state = {MINUS_INFINITY, 0, out};
        for (int chunk = a.first_chunk(token); chunk < a.last_chunk(token); chunk++) {
            const float* part = partial(a, token, chunk, head);
            merge(state, part[0], part[1], part + 16, a.head_dim);
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
    using Kind = typename Blocks::Kind;
    alignas(64) float head[octavo::MAX_HEAD_DIM];
    const int dim = a.head_dim, slot = a.positions[token] % BLOCK, block = a.new_blocks[token];
    const float* row = a.qkv + token * a.qkv_stride;
    auto* query = static_cast<typename Kind::Element*>(a.queries) + token * a.query_stride;
    for (int h = 0; h < a.num_heads; h++, row += dim, query += dim) {
        turn(a, token, row, a.query_norm, head);
        for (int d = 0; d < dim; d += 16) Kind::put(query + d, load(head + d));
    }
    for (int h = 0; h < a.num_kv_heads; h++, row += dim) {
        turn(a, token, row, a.key_norm, head);
        Blocks::put_key(a.head_of(block, h, Blocks::head_bytes(dim)), dim, slot, head);
    }
    for (int h = 0; h < a.num_kv_heads; h++, row += dim)
        Blocks::put_value(a.head_of(block, h, Blocks::head_bytes(dim)), dim, slot, row);
}

}  // namespace OCTAVO_ISA
