// What Python calls, by ctypes: plain pointers and integers. See library.py.
#include <algorithm>
#include <vector>

#include "decoder.h"
#include "gguf_blocks.h"
#include "kernels.h"
#include "pack.h"
#include "pool.h"
#include "quantized_layout.h"

#define API extern "C" __attribute__((visibility("default")))

using namespace octavo;

API const char* octavo_isa() { return kernels().name; }

// cpus: of each thread, or null for anywhere.
API Pool* octavo_pool_new(int num_threads, const int* cpus) {
    return new Pool(num_threads, cpus ? std::vector<int>(cpus, cpus + num_threads) : std::vector<int>());
}
API void octavo_pool_free(Pool* pool) { delete pool; }

API size_t octavo_linear_bytes(int form, int n, int k) { return linear_bytes(Form(form), n, k); }

API void octavo_pack(
    Pool* pool, const Linear* into, int first, int run, int jump, const void* source, int type, int rows) {
    pack(*pool, *into, first, run, jump, source, SourceType(type), rows);
}

// The form that keeps the integers of a type of GGML, or -1; and the bytes of a row of k weights, or 0 if it is a type
// that we don't take or k no whole number of its blocks.
API int octavo_form_of_ggml(int type) { return form_of(type); }
API size_t octavo_ggml_row_bytes(int type, int k) {
    const GgmlBlock block = block_of(type);
    return k % block.length ? 0 : size_t(k) / block.length * block.bytes;
}

API void octavo_unpack_row(const Linear* linear, int row, float* out) { unpack_row(*linear, row, out); }

API size_t octavo_activation_bytes(int form, int k) { return activation_bytes(Form(form), k); }
API void octavo_to_activations(int form, const float* x, int rows, int k, void* out) {
    const size_t stride = activation_bytes(Form(form), k);
    std::vector<float> scratch(int8_length(k));
    for (int i = 0; i < rows; i++)
        kernels().to_activations(
            x + size_t(i) * k, k, Form(form), scratch.data(), static_cast<char*>(out) + i * stride);
}

API void octavo_product(Pool* pool, const Product* product) {
    pool->run([&](Worker& worker) {
        Ahead ahead;
        worker.share(product->parts(kernels().row_block_bytes), 1, [&](int first, int last) {
            kernels().product[product->linear->form](*product, first, last, ahead);
        });
    });
}

// Reads all of `data` once, by all threads.
API void octavo_read_memory(Pool* pool, const char* data, size_t bytes) {
    pool->run([&](Worker& worker) {
        const size_t share = bytes / pool->size();
        kernels().read_memory(data + worker.rank * share, share);
    });
}

// The operations that all threads did in `rounds` rounds each.
API uint64_t octavo_multiply(Pool* pool, int rounds, bool by_bytes) {
    uint64_t done = 0;
    pool->run([&](Worker& worker) {
        const uint64_t here = kernels().multiply(rounds, by_bytes);
        if (worker.rank == 0) done = here * pool->size();
    });
    return done;
}

// The model's structures are copied, what they point to is not. group: null for a decoder by itself.
API Decoder* octavo_decoder_new(const Model* model, Pool* pool, const Group* group) {
    return new Decoder(*model, *pool, group);
}
API void octavo_decoder_free(Decoder* decoder) { delete decoder; }
// Bytes that a block takes in all layers.
API size_t octavo_block_bytes(int pool_type, int num_layers, int num_kv_heads, int head_dim) {
    return size_t(num_layers) * num_kv_heads * kernels().pool_bytes[pool_type](head_dim);
}
// Where the blocks are, or null if there is no memory for them; the decoder's own.
API char* octavo_decoder_allocate(Decoder* decoder, int64_t num_blocks) { return decoder->allocate(num_blocks); }
// How it has ended: see `Meeting`.
API int32_t octavo_decoder_run(Decoder* decoder, Step* step) { return decoder->run(*step); }
