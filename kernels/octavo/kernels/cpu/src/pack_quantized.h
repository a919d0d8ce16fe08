// Packs rows of float or GGUF matrices into the panels of a quantised form.
#pragma once

#include "fit.h"
#include "gguf_blocks.h"
#include "quantize.h"

namespace OCTAVO_ISA {

using octavo::GroupShape;
using octavo::PANEL;
using octavo::QuantizedRow;

// What one row needs on its way; k is padded with zero weights to whole groups.
class PackingRow {
  public:
    explicit PackingRow(int k) : padded(octavo::int8_length(k)) {
        floats = new float[3 * padded]();
        row = {new uint8_t[padded](), floats + padded, floats + 2 * padded};
    }
    ~PackingRow() {
        delete[] floats;
        delete[] row.q;
    }
    PackingRow(const PackingRow&) = delete;
    PackingRow& operator=(const PackingRow&) = delete;

    const int padded;
    float* floats;
    QuantizedRow row;
};

INLINE size_t source_row_bytes(int source_type, int k) {
    if (source_type == octavo::FROM_F32) return size_t(k) * 4;
    if (source_type < octavo::FROM_GGML) return size_t(k) * 2;
    const octavo::GgmlBlock block = octavo::block_of(source_type - octavo::FROM_GGML);
    return size_t(k) / block.length * block.bytes;
}

// The source's row as floats in the scratch.
static void read_floats(int source_type, const char* source, int k, PackingRow& scratch) {
    float* to = scratch.floats;
    if (source_type >= octavo::FROM_GGML) {
        const int type = source_type - octavo::FROM_GGML;
        const int length = octavo::shape_of(octavo::form_of(type)).length;
        octavo::take_row(type, reinterpret_cast<const uint8_t*>(source), k, scratch.row);
        for (int i = 0; i < k; i++)
            to[i] = scratch.row.scale[i / length] * scratch.row.q[i] + scratch.row.minimum[i / length];
    } else if (source_type == octavo::FROM_F32) {
        memcpy(to, source, size_t(k) * 4);
    } else {
        const uint16_t* from = reinterpret_cast<const uint16_t*>(source);
        for (int i = 0; i < k; i += 16) {
            uint16_t part[16] = {};
            memcpy(part, from + i, std::min(16, k - i) * 2);
            store(to + i, source_type == octavo::FROM_BF16 ? load_bf16(part) : load_f16(part));
        }
    }
}

template <int VECTORS>
static void fit_row(GroupShape shape, PackingRow& scratch) {
    const QuantizedRow& row = scratch.row;
    for (int i = 0, group = 0; i < scratch.padded; i += 16 * VECTORS, group++) {
        Weights<VECTORS> x;
        memcpy(x, scratch.floats + i, sizeof x);
        if (shape.minimum)
            fit_minimum<VECTORS>(x, shape.bits, row.q + i, row.scale[group], row.minimum[group]);
        else
            row.scale[group] = fit_centred<VECTORS>(x, shape.bits, row.q + i);
    }
}

INLINE uint32_t quad_at(const uint8_t* q, int i) { return load_as<uint32_t>(q + 4 * i); }

// 32 integers of one row into its column of a block; `to` is where its first quad lies.
INLINE void place_group(int bits, const uint8_t* q, char* to) {
    const auto put = [&](int vector, uint32_t quad) { memcpy(to + 64 * vector, &quad, sizeof quad); };
    if (bits == 8) {
        for (int i = 0; i < 8; i++) put(i, quad_at(q, i));
        return;
    }
    for (int i = 0; i < 4; i++) put(i, (quad_at(q, i) & 0x0f0f0f0f) | (quad_at(q, i + 4) & 0x0f0f0f0f) << 4);
    const int high = bits - 4, quads = high ? 8 / high : 0;
    for (int j = 0; j < high; j++) {
        uint32_t bytes = 0;
        for (int i = 0; i < quads; i++)
            bytes |= (quad_at(q, j * quads + i) >> 4 & 0x01010101 * ((1 << high) - 1)) << (i * high);
        put(4 + j, bytes);
    }
}

static void place_row(GroupShape shape, const QuantizedRow& row, int groups, int column, char* panel) {
    const int parts = octavo::GROUP / shape.length;
    for (int g = 0; g < groups; g++) {
        char* block = panel + g * octavo::block_bytes(shape);
        place_group(shape.bits, row.q + g * octavo::GROUP, block + column / 16 * shape.bits * 64 + column % 16 * 4);
        uint16_t* scale = reinterpret_cast<uint16_t*>(block + octavo::scales_at(shape)) + column;
        for (int part = 0; part < parts; part++) scale[part * PANEL] = to_half(row.scale[g * parts + part]);
        if (shape.minimum)
            reinterpret_cast<uint16_t*>(block + octavo::minima_at(shape))[column] = to_half(row.minimum[g]);
    }
}

static void pack_int8_row(PackingRow& scratch, int k, int column, char* panel) {
    const int length = octavo::int8_length(k);
    float* x = scratch.floats;
    uint8_t* q = scratch.row.q;
    const float most = transform_row(x, k, x);
    for (int i = 0; i < length; i++) x[i] /= HADAMARD;
    const Rounded row = round_to_bytes(x, length, most / HADAMARD, reinterpret_cast<int8_t*>(q));
    for (int i = 0; i < length; i++) q[i] ^= octavo::INT8_ZERO;
    for (int i = 0; i < length; i += 4) memcpy(panel + (i / 4 * PANEL + column) * 4, q + i, 4);
    memcpy(panel + octavo::int8_scales_at(k) + 4 * column, &row.scale, sizeof row.scale);
}

// A type of GGUF whose own form this is keeps its integers; all else is rounded anew.
static void pack_rows(const octavo::Packing& p, int first, int last) {
    const int form = p.into.form, k = p.into.k, type = p.type - octavo::FROM_GGML;
    PackingRow scratch(k);
    const GroupShape shape = octavo::shape_of(form);
    const size_t row_bytes = source_row_bytes(p.type, k), panel_bytes = octavo::quantized_bytes(form, PANEL, k);
    const bool as_it_is = octavo::form_of(type) == form;
    char* data = static_cast<char*>(const_cast<void*>(p.into.data));
    for (int i = first; i < last; i++) {
        const char* source = static_cast<const char*>(p.source) + i * row_bytes;
        const int at = p.first + i / p.run * p.jump + i % p.run, column = at % PANEL;
        char* panel = data + at / PANEL * panel_bytes;
        if (as_it_is)
            octavo::take_row(type, reinterpret_cast<const uint8_t*>(source), k, scratch.row);
        else
            read_floats(p.type, source, k, scratch);
        if (form == octavo::INT8) {
            pack_int8_row(scratch, k, column, panel);
            continue;
        }
        if (!as_it_is) shape.length == 16 ? fit_row<1>(shape, scratch) : fit_row<2>(shape, scratch);
        place_row(shape, scratch.row, octavo::groups_of(k), column, panel);
    }
}

}  // namespace OCTAVO_ISA
