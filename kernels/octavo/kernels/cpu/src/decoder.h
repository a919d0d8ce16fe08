// A whole decoder step, from token ids to logits, in one call.
#pragma once

#include <memory>
#include <vector>

#include "exchange.h"
#include "kernels.h"
#include "pool.h"
#include "write_ahead.h"

namespace octavo {

// The structures that Python fills in by ctypes: see library.py, which has the same fields.

struct Layer {
    const float *attention_norm, *mlp_norm, *query_norm, *key_norm;  // the latter two may be null
    Linear qkv, o, gate_up, down;
    int32_t window;  // 0 for none
};

struct Model {
    int32_t hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim, rotary_dim, vocab_size;
    int32_t activation;
    int32_t pool_type;  // PoolType
    float norm_eps, rope_scale;
    const float* frequencies;  // [rotary_dim / 2], the angle per position
    const float* final_norm;
    Linear embedding, output;  // the same where they are tied
    const Layer* layers;
};

// As octavo.engine.batch.Batch; rows: whose logits are wanted.
struct Step {
    int32_t num_tokens, num_seqs, max_blocks, num_copies, num_rows;
    const int32_t *token_ids, *positions, *query_lens, *context_lens, *block_tables, *copies, *rows;
    // Set by the step, valid until the next one: [num_rows, logits_stride]. Of several ranks, rank 0 has them.
    float* logits;
    int64_t logits_stride;
};

// In cache lines that nothing else is in.
template <class T>
struct alignas(64) Aligned : T {};

// Memory that only grows and is not cleared: a step's intermediate results. In huge pages, or rows that are far apart
// would each need a translation of their own.
template <class T>
class Scratch {
  public:
    T* get(size_t count) {
        if (count > size_) {
            pages_.reset();
            size_ = count + count / 4;
            pages_.reset(new Pages(size_ * sizeof(T)));
        }
        return pages_ ? reinterpret_cast<T*>(pages_->data()) : nullptr;
    }

  private:
    std::unique_ptr<Pages> pages_;
    size_t size_ = 0;
};

// Of several ranks' decoders each has some of the heads, of the feed-forward's width and of the vocabulary (see
// octavo.engine.models.shard): they add up what o and down give, in the order of the ranks, and rank 0 gathers logits.
class Decoder {
  public:
    // group: null for a decoder by itself.
    Decoder(const Model& model, Pool& pool, const Group* group)
        : model_(model), pool_(pool), kernels_(kernels()), exchange_(group ? new Exchange(*group) : nullptr),
          first_stretches_(pool.size() + 1), ahead_(pool.size()) {}

    // Makes room for keys and values, a pool of `num_blocks` blocks for each layer, in place of an earlier one. Where
    // it is; null if there is no memory for it.
    char* allocate(int64_t num_blocks);

    // Ends as a `Meeting` does; a step that has not met the others to its end has no logits.
    int32_t run(Step& step);

  private:
    size_t block_bytes() const;  // of one layer
    char* cache(int layer) const { return cache_ + size_t(layer) * num_blocks_ * block_bytes(); }

    void plan(const Step& step);
    void plan_ahead();
    void copy_blocks(const Step& step, Worker& worker);
    void begin(const Step& step, Worker& worker);
    // These four say whether the step can go on.
    bool embed(const Step& step, Worker& worker);
    bool layer(int index, const Step& step, Worker& worker);
    bool add(Worker& worker, const Linear& linear, const char* a, int rows, float* x, const Linear& then);
    bool meet(Worker& worker);
    void output(Worker& worker, const Step& step);
    // then: what is computed with next, or null.
    void product(Worker& worker, const Linear& linear, const char* a, int rows, void* out, size_t out_stride,
                 Finish finish, const Linear* then, bool out_is_bf16 = false);
    void look_ahead(const Worker& worker, int layer);
    void norm(Worker& worker, const float* x, const float* weight, int rows, Form form, char* out);
    void activations(Worker& worker, const float* x, int rows, int n, Form form, char* out);
    void attention(Worker& worker, const Attention& a);

    const Model model_;
    Pool& pool_;
    const Kernels& kernels_;
    const std::unique_ptr<Exchange> exchange_;
    int32_t ended_ = MET;  // how this step's last meeting has
    char* cache_ = nullptr;
    int64_t num_blocks_ = 0;
    std::unique_ptr<Pages> pages_;
    std::unique_ptr<WriteAhead> write_ahead_;  // after the pages that it writes to: it ends before they do

    // Worked out once per step.
    std::vector<AttentionTask> by_head_, by_chunk_;
    std::vector<int> task_tokens_, first_partial_, apart_, new_blocks_;
    struct Part {
        int chunk, first_block, sequence;
    };
    std::vector<Part> parts_;
    // What each thread fetches of a layer's keys and values: its stretches begin at `first_stretches_`.
    std::vector<int> blocks_;
    std::vector<Stretch> stretches_;
    std::vector<size_t> first_stretches_;
    std::vector<Aligned<Ahead>> ahead_;  // by thread
    int num_partials_ = 0;

    Scratch<float> cosines_, sines_, x_, x_rows_, qkv_, gated_, mixed_, partials_, logits_, norms_;
    Scratch<char> a_, queries_, attended_, attended_rows_, copied_, attend_;
};

// Bytes of a row of activations for products with weights of this form.
size_t activation_bytes(Form form, int k);

// One row of a packed matrix as floats: the embedding of a token.
void unpack_row(const Linear& linear, int row, float* out);

}  // namespace octavo
