// What is compiled once for each instruction set, as a table of functions; the best one is chosen at run time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace octavo {

// Columns of a product that are computed together: weights lie in panels of as many rows of the weight matrix.
constexpr int PANEL = 32;

// How a weight matrix is stored, and with it the form of the activations it is multiplied with.
enum Form : int32_t {
    F32 = 0,      // float32 weights and activations
    BF16 = 1,     // bfloat16 weights and activations
    NUM_FORMS
};

// What becomes of a product's columns.
enum Finish : int32_t {
    STORE,      // out = product + bias
    ADD,        // out += product + bias
    GATE,       // a panel is 16 columns of gate and the same 16 of up: out = activation(gate) · up, bfloat16 if
                // the matrix is
};

enum Activation : int32_t { SILU, GELU, GELU_TANH };

// A weight matrix [n, k], packed in panels; see `pack.h`. n and k are padded to whole panels and quads.
struct Linear {
    int32_t form;
    int32_t n;
    int32_t k;
    const void* data;
    const float* bias;  // [n], or null
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
    Activation activation;
};

struct Kernels {
    const char* name;
    // Computes the columns of panels [first, last).
    void (*product[NUM_FORMS])(const Product& product, int first, int last);
};

extern const Kernels kernels_avx512bf16, kernels_avx512, kernels_avx2, kernels_generic;

// The best that this processor can run.
const Kernels& kernels();

}  // namespace octavo
