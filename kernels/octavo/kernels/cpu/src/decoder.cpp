#include "decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "pack.h"
#include "quantized_layout.h"

namespace octavo {
namespace {

// Sequences with so few new tokens are computed chunk by chunk: each chunk by whoever is free, those that several
// sequences share only once. Others have rows enough to keep everybody busy.
constexpr int MOST_TOKENS_BY_CHUNK = 16;

// Bytes of a layer's keys and values that are fetched before attention: more would not stay in a cache until then.
constexpr size_t MOST_BYTES_AHEAD = 16 << 20;

// Bytes of weights that a thread takes at once.
constexpr size_t LARGEST_PIECE = 128 << 10;

// Pieces small enough that nobody waits long for the last one, and large enough to be worth fetching.
int piece(int count, const Worker& worker) { return std::max(1, count / (worker.pool.size() * 12)); }

size_t panel_bytes(const Linear& linear) { return linear_bytes(Form(linear.form), PANEL, linear.k); }

// Of an activation that is not quantised: a float32 or, where products of `form` take such ones, a bfloat16.
size_t plain_bytes(Form form) { return activation_bytes(form, PANEL) / PANEL; }

// Of a row of activations of whatever form.
size_t most_activation_bytes(int k) {
    size_t most = 0;
    for (int form = 0; form < NUM_FORMS; form++) most = std::max(most, activation_bytes(Form(form), k));
    return most;
}

}  // namespace

size_t activation_bytes(Form form, int k) { return kernels().activation_bytes(form, k); }

void unpack_row(const Linear& linear, int row, float* out) {
    if (is_quantized(linear.form)) return unpack_quantized_row(linear, row, out);
    const size_t panel = size_t(row / PANEL) * linear.k * PANEL;
    const int column = row % PANEL;
    if (linear.form == BF16) {
        const uint32_t* pairs = static_cast<const uint32_t*>(linear.data) + panel / 2 + column;
        for (int i = 0; i < linear.k; i += 2, pairs += PANEL) {
            const uint32_t two[2] = {*pairs << 16, *pairs & 0xffff0000};
            memcpy(out + i, two, sizeof two);
        }
    } else {
        const float* values = static_cast<const float*>(linear.data) + panel + column;
        for (int i = 0; i < linear.k; i++, values += PANEL) out[i] = *values;
    }
}

size_t Decoder::block_bytes() const {
    return model_.num_kv_heads * kernels_.pool_bytes[model_.pool_type](model_.head_dim);
}

char* Decoder::allocate(int64_t num_blocks) {
    write_ahead_.reset(), pages_.reset();
    pages_.reset(new Pages(size_t(model_.num_layers) * num_blocks * block_bytes()));
    cache_ = pages_->data(), num_blocks_ = num_blocks;
    if (cache_)
        write_ahead_.reset(new WriteAhead(cache_, model_.num_layers, num_blocks, block_bytes(), pool_.cpus()));
    return cache_;
}

int32_t Decoder::run(Step& step) {
    const Model& m = model_;
    const size_t tokens = step.num_tokens, rows = step.num_rows;
    const int heads = m.num_heads * m.head_dim, kv_heads = m.num_kv_heads * m.head_dim;
    const int widest = std::max({m.hidden_size, heads, m.intermediate_size});
    x_.get(tokens * m.hidden_size);
    x_rows_.get(rows * m.hidden_size);
    qkv_.get(tokens * (heads + 2 * kv_heads + PANEL));
    gated_.get(tokens * m.intermediate_size);
    mixed_.get(tokens * heads);
    attend_.get(pool_.size() * ATTEND_SCRATCH);
    norms_.get(size_t(pool_.size()) * int8_length(widest));
    a_.get(tokens * most_activation_bytes(widest));
    queries_.get(tokens * heads * 4);
    attended_.get(tokens * most_activation_bytes(heads));
    attended_rows_.get(rows * most_activation_bytes(heads));
    cosines_.get(tokens * m.rotary_dim / 2 + 16), sines_.get(tokens * m.rotary_dim / 2 + 16);
    plan(step);
    plan_ahead();
    partials_.get(size_t(num_partials_) * m.num_heads * (m.head_dim + 16));
    // Rank 0 has room for the others' beside its own.
    const bool gathers = exchange_ && exchange_->rank == 0;
    const int tokens_here = gathers ? exchange_->first_tokens.back() : m.output.n;
    step.logits_stride = (tokens_here + PANEL - 1) / PANEL * PANEL;
    step.logits = logits_.get(rows * step.logits_stride);
    ended_ = MET;
    pool_.run([&](Worker& worker) {
        if (step.num_copies) copy_blocks(step, worker);
        begin(step, worker);
        look_ahead(worker, 0);
        if (!embed(step, worker)) return;
        for (int i = 0; i < m.num_layers; i++)
            if (!layer(i, step, worker)) return;
        if (!rows) return;
        norm(worker, x_rows_.get(0), m.final_norm, rows, Form(m.output.form), a_.get(0));
        output(worker, step);
    });
    return ended_;
}

// Who attends to what: tasks for `attend`, and which tokens' chunks are to be merged after.
void Decoder::plan(const Step& step) {
    by_head_.clear(), by_chunk_.clear(), task_tokens_.clear(), apart_.clear(), parts_.clear();
    first_partial_.assign(step.num_tokens, 0);
    new_blocks_.resize(step.num_tokens);
    num_partials_ = 0;
    const int group = model_.num_heads / model_.num_kv_heads;
    const int most = std::max(1, MAX_TASK_ROWS / group);
    constexpr int BLOCKS = CHUNK / BLOCK;
    // Tasks point into it, so it must not move: every token once per chunk that it sees, at most.
    size_t places = 0;
    for (int s = 0; s < step.num_seqs; s++)
        places += step.query_lens[s] > MOST_TOKENS_BY_CHUNK
                      ? step.query_lens[s]
                      : size_t(step.query_lens[s]) * (step.context_lens[s] / CHUNK + 1);
    task_tokens_.reserve(places);
    auto add_task = [&](int s, int tokens_from, int first_chunk, int last_chunk, bool is_partial, bool heads_together) {
        const int count = int(task_tokens_.size()) - tokens_from;
        for (int i = 0; i < count; i += most)
            (heads_together ? by_chunk_ : by_head_).push_back({
                task_tokens_.data() + tokens_from + i, std::min(most, count - i),
                step.block_tables + size_t(s) * step.max_blocks, (step.context_lens[s] + BLOCK - 1) / BLOCK,
                first_chunk, last_chunk, is_partial, heads_together});
    };
    for (int s = 0, token = 0; s < step.num_seqs; token += step.query_lens[s++]) {
        const int count = step.query_lens[s], context = step.context_lens[s];
        for (int i = 0; i < count; i++)
            new_blocks_[token + i] = step.block_tables[size_t(s) * step.max_blocks + step.positions[token + i] / BLOCK];
        const int num_chunks = (context - 1) / CHUNK + 1;
        if (count > MOST_TOKENS_BY_CHUNK || num_chunks == 1) {
            const int from = task_tokens_.size();
            for (int i = 0; i < count; i++) task_tokens_.push_back(token + i);
            add_task(s, from, 0, num_chunks, false, count <= MOST_TOKENS_BY_CHUNK);
            continue;
        }
        for (int i = 0; i < count; i++) {
            first_partial_[token + i] = num_partials_;
            num_partials_ += step.positions[token + i] / CHUNK + 1;
            apart_.push_back(token + i);
        }
        for (int chunk = 0; chunk < num_chunks; chunk++)
            parts_.push_back({chunk, step.block_tables[size_t(s) * step.max_blocks + chunk * BLOCKS], s});
    }
    if (!new_blocks_.empty()) write_ahead_->used(*std::max_element(new_blocks_.begin(), new_blocks_.end()) + size_t(1));
    // Equal chunks of equal blocks come together, and are read once for all their sequences.
    std::sort(parts_.begin(), parts_.end(), [](const Part& a, const Part& b) {
        return a.chunk != b.chunk               ? a.chunk < b.chunk
               : a.first_block != b.first_block ? a.first_block < b.first_block
                                                : a.sequence < b.sequence;
    });
    std::vector<int> starts(step.num_seqs + 1, 0);
    for (int s = 0; s < step.num_seqs; s++) starts[s + 1] = starts[s] + step.query_lens[s];
    auto blocks = [&](const Part& part) {
        return step.block_tables + size_t(part.sequence) * step.max_blocks + part.chunk * BLOCKS;
    };
    auto full = [&](const Part& part) { return (part.chunk + 1) * CHUNK <= step.context_lens[part.sequence]; };
    for (size_t i = 0; i < parts_.size();) {
        const Part& first = parts_[i];
        const int from = task_tokens_.size();
        size_t end = i;
        for (; end < parts_.size(); end++) {
            const Part& part = parts_[end];
            if (end > i && !(part.chunk == first.chunk && full(part) && full(first) &&
                             !memcmp(blocks(part), blocks(first), BLOCKS * sizeof(int))))
                break;
            for (int token = starts[part.sequence]; token < starts[part.sequence + 1]; token++)
                if (step.positions[token] >= part.chunk * CHUNK) task_tokens_.push_back(token);
        }
        add_task(first.sequence, from, first.chunk, first.chunk + 1, true, true);
        i = end;
    }
}

// What attention will read in every layer, in the order in which it lies in memory; each thread fetches some of it.
void Decoder::plan_ahead() {
    const size_t bytes = block_bytes(), most = MOST_BYTES_AHEAD / bytes;
    blocks_.clear(), stretches_.clear();
    for (const AttentionTask& task : by_chunk_) {
        const int first = task.first_chunk * (CHUNK / BLOCK), end = std::min(first + CHUNK / BLOCK, task.num_blocks);
        if (blocks_.size() + end - first > most) break;
        blocks_.insert(blocks_.end(), task.block_table + first, task.block_table + end);
    }
    std::sort(blocks_.begin(), blocks_.end());
    const int count = int(std::unique(blocks_.begin(), blocks_.end()) - blocks_.begin());
    for (int rank = 0; rank < pool_.size(); rank++) {
        const size_t first = first_stretches_[rank] = stretches_.size();
        for (int i = pool_.first_of(count, rank); i < pool_.first_of(count, rank + 1); i++) {
            const size_t from = blocks_[i] * bytes;
            if (stretches_.size() > first && stretches_.back().last == from)
                stretches_.back().last += bytes;
            else
                stretches_.push_back({from, from + bytes});
        }
    }
    first_stretches_[pool_.size()] = stretches_.size();
}

// Has the products that follow fetch what this layer's attention will read. Where there is a window it is little.
void Decoder::look_ahead(const Worker& worker, int layer) {
    const size_t first = first_stretches_[worker.rank], last = first_stretches_[worker.rank + 1];
    const bool is_whole = !model_.layers[layer].window;
    ahead_[worker.rank].begin(cache(layer), stretches_.data() + first, stretches_.data() + (is_whole ? last : first));
}

void Decoder::copy_blocks(const Step& step, Worker& worker) {
    const size_t bytes = block_bytes(), count = step.num_copies;
    // All sources are read before any target is written: a block freed in this step may be both.
    if (worker.rank == 0) copied_.get(model_.num_layers * count * bytes);
    worker.barrier();
    worker.share(model_.num_layers, 1, [&](int first, int last) {
        for (int layer = first; layer < last; layer++) {
            char *pool = cache(layer), *copied = copied_.get(0) + layer * count * bytes;
            for (size_t i = 0; i < count; i++) memcpy(copied + i * bytes, pool + step.copies[2 * i] * bytes, bytes);
            for (size_t i = 0; i < count; i++) memcpy(pool + step.copies[2 * i + 1] * bytes, copied + i * bytes, bytes);
        }
    });
}

// Rotations of all tokens.
void Decoder::begin(const Step& step, Worker& worker) {
    const int half = model_.rotary_dim / 2;
    worker.share(step.num_tokens, piece(step.num_tokens, worker), [&](int first, int last) {
        for (int t = first; t < last; t++)
            for (int i = 0; i < half; i++) {
                const float angle = step.positions[t] * model_.frequencies[i];
                cosines_.get(0)[size_t(t) * half + i] = std::cos(angle) * model_.rope_scale;
                sines_.get(0)[size_t(t) * half + i] = std::sin(angle) * model_.rope_scale;
            }
    });
}

// Embeddings of all tokens: each is some rank's.
bool Decoder::embed(const Step& step, Worker& worker) {
    const int n = model_.hidden_size, tokens = step.num_tokens;
    const auto row = [n](auto* rows, int i) { return rows + size_t(i) * n; };
    if (!exchange_) {
        worker.share(tokens, piece(tokens, worker), [&](int first, int last) {
            for (int t = first; t < last; t++) unpack_row(model_.embedding, step.token_ids[t], row(x_.get(0), t));
        });
        worker.barrier();
        return true;
    }
    const Exchange& e = *exchange_;
    const int first_own = e.first_tokens[e.rank], end_own = e.first_tokens[e.rank + 1];
    const int at_once = int(e.slot_bytes / (n * sizeof(float)));
    for (int from = 0; from < tokens; from += at_once) {
        const int count = std::min(at_once, tokens - from);
        const int* ids = step.token_ids + from;
        float *own = e.own(), *x = row(x_.get(0), from);
        worker.share(count, piece(count, worker), [&](int first, int last) {
            for (int t = first; t < last; t++)
                if (ids[t] >= first_own && ids[t] < end_own)
                    unpack_row(model_.embedding, ids[t] - first_own, row(own, t));
        });
        worker.barrier();
        if (!meet(worker)) return false;
        worker.share(count, piece(count, worker), [&](int first, int last) {
            for (int t = first; t < last; t++) {
                const auto end = std::upper_bound(e.first_tokens.begin(), e.first_tokens.end(), ids[t]);
                const float* of = e.of(int(end - e.first_tokens.begin()) - 1);
                memcpy(row(x, t), row(of, t), n * sizeof(float));
            }
        });
        worker.barrier();
    }
    return true;
}

bool Decoder::layer(int index, const Step& step, Worker& worker) {
    const Model& m = model_;
    const Layer& layer = m.layers[index];
    const int tokens = step.num_tokens, heads = m.num_heads * m.head_dim;
    const bool last = index == m.num_layers - 1;
    const Form o_form = Form(layer.o.form), down_form = Form(layer.down.form);
    float* x = x_.get(0);
    char* a = a_.get(0);
    norm(worker, x, layer.attention_norm, tokens, Form(layer.qkv.form), a);
    const size_t qkv_stride = layer.qkv.panels() * PANEL;
    product(worker, layer.qkv, a, tokens, qkv_.get(0), qkv_stride, STORE, &layer.o);

    const bool plain = !is_quantized(o_form);  // attention writes these activations itself
    Attention attention{};
    attention.num_heads = m.num_heads, attention.num_kv_heads = m.num_kv_heads;
    attention.head_dim = m.head_dim, attention.rotary_dim = m.rotary_dim;
    attention.window = layer.window;
    attention.scale = 1 / std::sqrt(float(m.head_dim)), attention.norm_eps = m.norm_eps;
    attention.query_norm = layer.query_norm, attention.key_norm = layer.key_norm;
    attention.cosines = cosines_.get(0), attention.sines = sines_.get(0);
    attention.positions = step.positions, attention.new_blocks = new_blocks_.data();
    attention.qkv = qkv_.get(0), attention.qkv_stride = qkv_stride;
    attention.cache = cache(index);
    attention.queries = queries_.get(0);
    attention.out = plain ? static_cast<void*>(attended_.get(0)) : mixed_.get(0);
    attention.out_stride = plain ? activation_bytes(o_form, heads) / plain_bytes(o_form) : heads;
    attention.out_is_bf16 = o_form == BF16;
    attention.first_partial = first_partial_.data(), attention.partials = partials_.get(0);
    this->attention(worker, attention);
    if (!last) look_ahead(worker, index + 1);
    char* attended = attended_.get(0);
    if (!plain) activations(worker, mixed_.get(0), tokens, heads, o_form, attended);

    int rows = tokens;
    if (last) {
        // Only the rows that are asked for matter from here on, and a prefill chunk may have none.
        rows = step.num_rows;
        if (!rows) return true;
        const size_t bytes = activation_bytes(o_form, heads);
        worker.share(rows, piece(rows, worker), [&](int first, int end) {
            for (int r = first; r < end; r++) {
                const size_t token = step.rows[r];
                memcpy(x_rows_.get(0) + size_t(r) * m.hidden_size, x + token * m.hidden_size, m.hidden_size * 4);
                memcpy(attended_rows_.get(0) + r * bytes, attended + token * bytes, bytes);
            }
        });
        worker.barrier();
        x = x_rows_.get(0), attended = attended_rows_.get(0);
    }
    if (!add(worker, layer.o, attended, rows, x, layer.gate_up)) return false;
    norm(worker, x, layer.mlp_norm, rows, Form(layer.gate_up.form), a);
    const Linear& then = last ? m.output : m.layers[index + 1].qkv;
    if (!is_quantized(down_form)) {
        // The product itself writes the activations of the next one.
        char* gated = reinterpret_cast<char*>(gated_.get(0));
        const size_t stride = activation_bytes(down_form, m.intermediate_size) / plain_bytes(down_form);
        product(worker, layer.gate_up, a, rows, gated, stride, GATE, &layer.down, down_form == BF16);
        return add(worker, layer.down, gated, rows, x, then);
    } else {
        product(worker, layer.gate_up, a, rows, gated_.get(0), m.intermediate_size, GATE, &layer.down);
        activations(worker, gated_.get(0), rows, m.intermediate_size, down_form, a);
        return add(worker, layer.down, a, rows, x, then);
    }
}

// x += a · weightᵀ + bias, with what the other ranks have of both.
bool Decoder::add(Worker& worker, const Linear& linear, const char* a, int rows, float* x, const Linear& then) {
    const int n = model_.hidden_size;
    if (!exchange_) {
        product(worker, linear, a, rows, x, n, ADD, &then);
        return true;
    }
    const Exchange& e = *exchange_;
    const size_t stride = activation_bytes(Form(linear.form), linear.k);
    const int at_once = int(e.slot_bytes / (n * sizeof(float)));
    for (int from = 0; from < rows; from += at_once) {
        const int count = std::min(at_once, rows - from);
        product(worker, linear, a + from * stride, count, e.own(), n, STORE, &then);
        if (!meet(worker)) return false;
        worker.share(count, piece(count, worker), [&](int first, int last) {
            const size_t begin = size_t(first) * n, length = size_t(last - first) * n;
            float* to = x + size_t(from) * n + begin;
            const float *zero = e.of(0) + begin, *one = e.of(1) + begin;
            // A few elements of all ranks at a time, which stay in registers.
            constexpr int AT_ONCE = 32;
            for (size_t i = 0; i < length; i += AT_ONCE) {
                float sum[AT_ONCE];
                for (int j = 0; j < AT_ONCE; j++) sum[j] = zero[i + j] + one[i + j];
                for (int rank = 2; rank < e.size; rank++) {
                    const float* of = e.of(rank) + begin + i;
                    for (int j = 0; j < AT_ONCE; j++) sum[j] += of[j];
                }
                for (int j = 0; j < AT_ONCE; j++) to[i + j] += sum[j];
            }
        });
    }
    worker.barrier();
    return true;
}

// The whole team meets the other ranks' teams; what each of these wrote before can then be read by all.
bool Decoder::meet(Worker& worker) {
    if (worker.rank == 0) ended_ = exchange_->meet();
    worker.barrier();
    return ended_ == MET;
}

// Logits of the step's rows; on rank 0 all ranks' side by side.
void Decoder::output(Worker& worker, const Step& step) {
    const Linear& linear = model_.output;
    const int rows = step.num_rows;
    const char* a = a_.get(0);
    if (!exchange_) return product(worker, linear, a, rows, step.logits, step.logits_stride, STORE, nullptr);

    const Exchange& e = *exchange_;
    const auto width = [&](int rank) { return size_t(e.tokens_of(rank) + PANEL - 1) / PANEL * PANEL; };
    size_t widest = 0;
    for (int rank = 0; rank < e.size; rank++) widest = std::max(widest, width(rank));
    const int at_once = int(e.slot_bytes / (widest * sizeof(float)));
    // More rows than a slot has room for are computed together all the same, and go over in pieces.
    const bool is_direct = e.rank > 0 && rows <= at_once;
    product(worker, linear, a, rows, is_direct ? e.own() : step.logits, step.logits_stride, STORE, nullptr);
    for (int from = 0; from < rows; from += at_once) {
        const int count = std::min(at_once, rows - from);
        if (e.rank > 0 && !is_direct) {
            const size_t stride = width(e.rank);
            worker.share(count, piece(count, worker), [&](int first, int last) {
                memcpy(e.own() + first * stride, step.logits + (from + first) * stride,
                       (last - first) * stride * sizeof(float));
            });
            worker.barrier();
        }
        if (!meet(worker)) return;
        if (e.rank > 0) continue;
        worker.share(count, piece(count, worker), [&](int first, int last) {
            for (int r = first; r < last; r++)
                for (int rank = 1; rank < e.size; rank++)
                    memcpy(step.logits + size_t(from + r) * step.logits_stride + e.first_tokens[rank],
                           e.of(rank) + r * width(rank), e.tokens_of(rank) * sizeof(float));
        });
        worker.barrier();
    }
}

void Decoder::attention(Worker& worker, const Attention& a) {
    const int tokens = int(first_partial_.size()), type = model_.pool_type;
    worker.share(tokens, piece(tokens, worker), [&](int first, int last) {
        for (int t = first; t < last; t++) kernels_.store_token[type](a, t);
    });
    worker.barrier();
    // The heads of a long prompt come one by one, so that its tasks find a head's keys and values in the cache; those of
    // a single chunk together, as they lie in memory.
    const int heads = model_.num_kv_heads, tasks = int(by_head_.size()), chunks = int(by_chunk_.size());
    char* scratch = attend_.get(0) + worker.rank * ATTEND_SCRATCH;
    worker.share(tasks * heads, 1, [&](int first, int last) {
        const auto piece = [&](int i) { return AttentionPiece{&by_head_[i % tasks], i / tasks}; };
        for (int i = first; i < last; i++)
            kernels_.attend[type](a, piece(i), piece(std::min(i + 1, tasks * heads - 1)), scratch);
    });
    worker.share(chunks, 1, [&](int first, int last) {
        for (int i = first; i < last; i++)
            for (int head = 0; head < heads; head++)
                kernels_.attend[type](a, {&by_chunk_[i], head}, {&by_chunk_[std::min(i + 1, chunks - 1)], 0}, scratch);
    });
    worker.barrier();
    if (apart_.empty()) return;
    const int apart = int(apart_.size());
    worker.share(apart, piece(apart, worker), [&](int first, int last) {
        for (int i = first; i < last; i++) kernels_.combine(a, apart_[i]);
    });
    worker.barrier();
}

void Decoder::product(
    Worker& worker, const Linear& linear, const char* a, int rows, void* out, size_t out_stride, Finish finish,
    const Linear* then, bool out_is_bf16) {
    const Product product = {
        &linear, a,      activation_bytes(Form(linear.form), linear.k), rows, out, out_stride,
        finish,  Activation(model_.activation), out_is_bf16};
    // Few rows wait for memory, which likes long pieces; many take long enough one by one.
    const int at_once = rows >= 16 ? 1 : std::max<size_t>(1, LARGEST_PIECE / panel_bytes(linear));
    const char* next = nullptr;
    if (then)
        next = static_cast<const char*>(then->data) + pool_.first_of(then->panels(), worker.rank) * panel_bytes(*then);
    const int parts = product.parts(kernels_.row_block_bytes), end = pool_.first_of(parts, worker.rank + 1);
    Ahead& ahead = ahead_[worker.rank];
    worker.share(parts, std::min(piece(parts, worker), at_once), [&](int first, int last) {
        ahead.weights = last == end ? next : nullptr;
        kernels_.product[linear.form](product, first, last, ahead);
    });
    worker.barrier();
}

void Decoder::norm(Worker& worker, const float* x, const float* weight, int rows, Form form, char* out) {
    const int n = model_.hidden_size;
    const size_t bytes = activation_bytes(form, n);
    float* scratch = norms_.get(0) + size_t(worker.rank) * int8_length(n);
    worker.share(rows, piece(rows, worker), [&](int first, int last) {
        for (int r = first; r < last; r++)
            kernels_.rms_norm(x + size_t(r) * n, weight, model_.norm_eps, n, form, scratch, out + r * bytes);
    });
    worker.barrier();
}

void Decoder::activations(Worker& worker, const float* x, int rows, int n, Form form, char* out) {
    const size_t bytes = activation_bytes(form, n);
    float* scratch = norms_.get(0) + size_t(worker.rank) * int8_length(n);
    worker.share(rows, piece(rows, worker), [&](int first, int last) {
        for (int r = first; r < last; r++) kernels_.to_activations(x + size_t(r) * n, n, form, scratch, out + r * bytes);
    });
    worker.barrier();
}

}  // namespace octavo
