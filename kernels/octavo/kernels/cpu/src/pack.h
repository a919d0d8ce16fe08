// Weight matrices brought into panels: see `Linear` in kernels.h.
#pragma once

#include "kernels.h"
#include "pool.h"

namespace octavo {

// Bytes that a matrix [n, k] takes.
size_t linear_bytes(Form form, int n, int k);

// Puts the rows of `source`, [rows, k], into a packed matrix [n, k], all zero where none has been put yet: row i
// becomes column first + i / run · jump + i % run. GGML's blocks go into quantised forms only; the form that a type
// has to itself keeps its integers. Matrices that are computed as one product are packed one after the other,
// gate and up by turns of 16.
void pack(Pool& pool, const Linear& into, int first, int run, int jump, const void* source, SourceType type, int rows);

}  // namespace octavo
