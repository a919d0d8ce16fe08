#include <algorithm>
#include <cstring>

#include "gguf_blocks.h"
#include "quantized_layout.h"

namespace octavo {
namespace {

float half_at(const char* panel, size_t at) { return half_to_float(reinterpret_cast<const uint8_t*>(panel) + at); }

// q of weight i of a group, whose column's quads lie from `vectors` on.
int integer_at(int bits, const uint8_t* vectors, int i) {
    const int quad = i / 4, byte = i % 4;
    if (bits == 8) return vectors[64 * quad + byte];
    const int low = vectors[64 * (quad % 4) + byte] >> (quad / 4 * 4) & 15;
    const int high = bits - 4;
    if (!high) return low;
    return low | (vectors[64 * (4 + quad * high / 8) + byte] >> (quad * high % 8) & ((1 << high) - 1)) << 4;
}

void unpack_groups(GroupShape shape, const char* panel, int column, int k, float* out) {
    for (int first = 0; first < k; first += shape.length) {
        const char* block = panel + first / GROUP * block_bytes(shape);
        const char* vectors = block + column / 16 * shape.bits * 64 + column % 16 * 4;
        const int part = first % GROUP / shape.length;
        const float scale = half_at(block, scales_at(shape) + (part * PANEL + column) * 2);
        const float minimum = shape.minimum ? half_at(block, minima_at(shape) + column * 2)
                                            : -scale * (1 << (shape.bits - 1));
        for (int i = first; i < std::min(k, first + shape.length); i++)
            out[i] = scale * integer_at(shape.bits, reinterpret_cast<const uint8_t*>(vectors), i % GROUP) + minimum;
    }
}

// Takes `hadamard` back, but for a factor of HADAMARD.
void transform_back(float (&x)[HADAMARD]) {
    for (int distance = 1; distance < HADAMARD; distance *= 2)
        for (int i = 0; i < HADAMARD; i++)
            if (!(i & distance)) {
                const float one = x[i], other = x[i + distance];
                x[i] = one + other, x[i + distance] = one - other;
            }
    for (int i = 0; i < HADAMARD; i++) x[i] *= hadamard_sign(i);
}

}  // namespace

void unpack_quantized_row(const Linear& linear, int row, float* out) {
    const int k = linear.k, column = row % PANEL;
    const char* data = static_cast<const char*>(linear.data);
    const size_t panel = row / PANEL;
    if (linear.form == INT8) {
        const char* quads = data + panel * int8_panel_bytes(k);
        float scale;
        memcpy(&scale, quads + int8_scales_at(k) + 4 * column, sizeof scale);
        for (int first = 0; first < k; first += HADAMARD) {
            float block[HADAMARD];
            for (int i = 0; i < HADAMARD; i++) {
                const int at = first + i;
                block[i] = scale * (uint8_t(quads[(at / 4 * PANEL + column) * 4 + at % 4]) - INT8_ZERO);
            }
            transform_back(block);
            std::copy_n(block, std::min(HADAMARD, k - first), out + first);
        }
    } else {
        const GroupShape shape = shape_of(linear.form);
        unpack_groups(shape, data + panel * groups_of(k) * block_bytes(shape), column, k, out);
    }
}

}  // namespace octavo
