// What is compiled once for each instruction set, as a table of functions; the best one is chosen at run time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ahead.h"
#include "logits.h"

namespace octavo {

// Columns of a product that are computed together: weights lie in panels of as many rows of the weight matrix.
constexpr int PANEL = 32;

// Rows of a product that are computed together: their activations stay in the second-level cache while panels
// pass by.
constexpr int LEAST_ROW_BLOCK = 192, MOST_ROW_BLOCK = 512;

// Tokens of a block of keys and values, and of the chunks that attention goes by.
constexpr int BLOCK = 16, CHUNK = 128;

constexpr int MAX_HEAD_DIM = 256;

// Rows (a query head of a token) that one attention task may have.
constexpr int MAX_TASK_ROWS = 96;

// Memory that an attention task computes in.
constexpr size_t ATTEND_SCRATCH = 512 << 10;

// The type of keys and values in their pool; see blocks.h.
enum PoolType : int32_t { POOL_F32 = 0, POOL_BF16 = 1, POOL_INT8 = 2, NUM_POOL_TYPES };

// How a weight matrix is stored, and with it the form of the activations it is multiplied with.
enum Form : int32_t {
    F32 = 0,   // float32 weights and activations
    BF16 = 1,  // bfloat16 weights, and activations, which are float32 where there are no instructions for them
    // Quantised: fewer bits for a weight, bytes for activations. See `quantized_layout.h`.
    INT8 = 2,              // 8 bits of what is left after a transform, a scale for a row
    GROUP4 = 3,            // 4 bits, a scale and a minimum for every 32
    GROUP4_CENTRED = 4,    // 4 bits, a scale for every 32
    GROUP5 = 5,            // 5 bits, a scale and a minimum for every 32
    GROUP5_CENTRED = 6,    // 5 bits, a scale for every 32
    GROUP6_CENTRED16 = 7,  // 6 bits, a scale for every 16
    GROUP8_CENTRED = 8,    // 8 bits, a scale for every 32
    NUM_FORMS
};

static constexpr bool is_quantized(int form) { return form >= INT8; }

// What becomes of a product's columns.
enum Finish : int32_t {
    STORE,  // out = product + bias
    ADD,    // out += product + bias
    GATE,   // a panel is 16 columns of gate and the same 16 of up: out = activation(gate) · up
};

enum Activation : int32_t { SILU, GELU, GELU_TANH };

// A weight matrix [n, k], packed in panels. n is padded to whole panels.
struct Linear {
    int32_t form;
    int32_t n;
    int32_t k;
    const void* data;
    const float* bias;  // [n], or null

    int panels() const { return (n + PANEL - 1) / PANEL; }
};

// out = a · weightᵀ for some rows.
struct Product {
    const Linear* linear;
    const void* a;  // [rows, k] in the form's activations, `a_stride` bytes from row to row
    size_t a_stride;
    int rows;
    void* out;  // [rows, n], or [rows, n / 2] if gated; `out_stride` elements from row to row
    size_t out_stride;
    Finish finish;
    Activation activation;  // of GATE
    bool out_is_bf16;       // of GATE, as activations of BF16; float32 otherwise

    // Rows of a block, all blocks alike. most_bytes: of activations, where a block has more rows than the least.
    int row_block(size_t most_bytes) const {
        const int most = std::clamp(int(most_bytes / a_stride), LEAST_ROW_BLOCK, MOST_ROW_BLOCK);
        const int blocks = (rows + most - 1) / most;
        return blocks > 1 ? ((rows + blocks - 1) / blocks + 31) / 32 * 32 : most;
    }
    // Pieces of work: every panel, for every block of rows.
    int parts(size_t most_bytes) const {
        const int block = row_block(most_bytes);
        return linear->panels() * ((rows + block - 1) / block);
    }
};

// One layer's attention in one step. Tokens are the step's new tokens.
struct Attention {
    int num_heads, num_kv_heads, head_dim, rotary_dim;
    int window;  // how many positions, its own included, a token sees; 0 for all
    float scale, norm_eps;
    const float *query_norm, *key_norm;  // [head_dim], or null
    const float *cosines, *sines;        // [num_tokens, rotary_dim / 2]
    const int* positions;                // [num_tokens]
    const int* new_blocks;               // [num_tokens], the block that a token belongs to
    const float* qkv;                    // [num_tokens, (num_heads + 2 num_kv_heads) head_dim]
    size_t qkv_stride;
    void* cache;          // the layer's pool: of every block, of every key-value head, keys and then values
    void* queries;        // [num_tokens, num_heads], each head's as the pools' type is multiplied
    void* out;  // [num_tokens, num_heads, head_dim]
    size_t out_stride;
    bool out_is_bf16;
    const int* first_partial;  // [num_tokens], where a token's chunks begin among the partial results
    float* partials;           // per chunk and head: greatest, sum, 14 unused, [head_dim]

    int first_chunk(int token) const {
        const int unseen = window ? positions[token] + 1 - window : 0;
        return unseen > 0 ? unseen / CHUNK : 0;
    }
    int last_chunk(int token) const { return positions[token] / CHUNK + 1; }

    // bytes: of one head of a token.
    char* query_of(int token, int head, size_t bytes) const {
        return static_cast<char*>(queries) + (size_t(token) * num_heads + head) * bytes;
    }

    // A head's keys in a block; its values follow. bytes: of both.
    char* head_of(int block, int kv_head, size_t bytes) const {
        return static_cast<char*>(cache) + (size_t(block) * num_kv_heads + kv_head) * bytes;
    }
};

// Rows that see the same chunks of the same blocks. tokens: ascending.
struct AttentionTask {
    const int* tokens;
    int num_tokens;
    const int* block_table;  // of the sequence, from its first block on
    int num_blocks;
    int first_chunk, last_chunk;
    bool is_partial;      // some of the tokens have other chunks, computed elsewhere
    bool heads_together;  // of one chunk, whose key-value heads are computed one after another
};

// A task, and which key-value head of it is computed.
struct AttentionPiece {
    const AttentionTask* task;
    int kv_head;
};

// What rows of a matrix are stored as before they are packed.
enum SourceType : int32_t {
    FROM_F32 = 0,
    FROM_BF16 = 1,
    FROM_F16 = 2,
    FROM_GGML = 100,  // plus GGML's number of a type: blocks of quantised weights
};

// Rows [rows, k] on their way into a packed matrix: row i becomes column first + i / run · jump + i % run.
struct Packing {
    Linear into;
    int first, run, jump;
    const void* source;
    SourceType type;
};

struct Kernels {
    const char* name;
    size_t row_block_bytes;  // see `Product::row_block`
    // Computes the parts [first, last) of `Product::parts`.
    void (*product[NUM_FORMS])(const Product& product, int first, int last, Ahead& ahead);
    size_t (*activation_bytes)(Form form, int k);  // from one row to the next
    void (*to_activations)(const float* x, int n, Form form, float* scratch, void* out);
    void (*rms_norm)(const float* x, const float* weight, float eps, int n, Form form, float* scratch, void* out);
    // By the type of the pools.
    size_t (*pool_bytes[NUM_POOL_TYPES])(int head_dim);  // of one head's keys and values in a block
    void (*store_token[NUM_POOL_TYPES])(const Attention& attention, int token);
    // next: what will be computed then, whose first chunk is fetched meanwhile. scratch: ATTEND_SCRATCH bytes at the
    // start of a cache line.
    void (*attend[NUM_POOL_TYPES])(const Attention& attention, AttentionPiece now, AttentionPiece next, void* scratch);
    void (*combine)(const Attention& attention, int token);
    void (*release_tiles)();  // by every thread that has computed, when it ends
    // Measures of the machine; see probe.h.
    uint64_t (*read_memory)(const char* data, size_t bytes);
    uint64_t (*multiply)(int rounds, bool by_bytes);
    // Packs the source's rows [first, last) into a quantised form.
    void (*pack_quantized)(const Packing& packing, int first, int last);
    Scans scans;
};

extern const Kernels kernels_amx, kernels_avx512bf16, kernels_avx512vnni, kernels_avx512, kernels_avxvnni, kernels_avx2,
    kernels_generic;

// The best that this processor can run.
const Kernels& kernels();

}  // namespace octavo
