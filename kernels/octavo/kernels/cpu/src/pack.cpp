#include "pack.h"

#include <cstring>

#include "quantized_layout.h"

namespace octavo {
namespace {

float from_f16(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000) << 16, magnitude = uint32_t(h & 0x7fff) << 13;
    float value;
    memcpy(&value, &magnitude, 4);
    value *= 0x1p112f;
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((h & 0x7c00) == 0x7c00) bits = magnitude | 0x7f800000;
    bits |= sign;
    memcpy(&value, &bits, 4);
    return value;
}

uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (x != x) return uint16_t(bits >> 16 | 1);
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float read(const void* source, SourceType type, size_t at) {
    switch (type) {
        case FROM_BF16: {
            const uint32_t bits = uint32_t(static_cast<const uint16_t*>(source)[at]) << 16;
            float value;
            memcpy(&value, &bits, 4);
            return value;
        }
        case FROM_F16:
            return from_f16(static_cast<const uint16_t*>(source)[at]);
        default:
            return static_cast<const float*>(source)[at];
    }
}

void pack_f32(float* column, const void* source, SourceType type, size_t row, int k) {
    for (int i = 0; i < k; i++) column[size_t(i) * PANEL] = read(source, type, row * k + i);
}

void pack_bf16(uint32_t* column, const void* source, SourceType type, size_t row, int k) {
    if (type == FROM_BF16) {
        const uint16_t* from = static_cast<const uint16_t*>(source) + row * k;
        for (int i = 0; i < k / 2; i++) memcpy(column + size_t(i) * PANEL, from + 2 * i, 4);
        return;
    }
    for (int i = 0; i < k / 2; i++) {
        const uint32_t below = to_bf16(read(source, type, row * k + 2 * i));
        column[size_t(i) * PANEL] = below | uint32_t(to_bf16(read(source, type, row * k + 2 * i + 1))) << 16;
    }
}

}  // namespace

size_t linear_bytes(Form form, int n, int k) {
    if (is_quantized(form)) return quantized_bytes(form, n, k);
    const size_t elements = size_t((n + PANEL - 1) / PANEL * PANEL) * k;
    return elements * (form == BF16 ? 2 : 4);
}

void pack(Pool& pool, const Linear& into, int first, int run, int jump, const void* source, SourceType type, int rows) {
    char* data = static_cast<char*>(const_cast<void*>(into.data));
    const size_t panel_bytes = linear_bytes(Form(into.form), PANEL, into.k);
    pool.run([&](Worker& worker) {
        worker.share(rows, PANEL, [&](int begin, int end) {
            if (is_quantized(into.form))
                return kernels().pack_quantized({into, first, run, jump, source, type}, begin, end);
            for (int row = begin; row < end; row++) {
                const int column = first + row / run * jump + row % run;
                char* panel = data + column / PANEL * panel_bytes;
                if (into.form == BF16)
                    pack_bf16(reinterpret_cast<uint32_t*>(panel) + column % PANEL, source, type, row, into.k);
                else
                    pack_f32(reinterpret_cast<float*>(panel) + column % PANEL, source, type, row, into.k);
            }
        });
    });
}

}  // namespace octavo
