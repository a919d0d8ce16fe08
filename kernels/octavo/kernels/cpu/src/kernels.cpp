// Compiled once for each instruction set, with OCTAVO_ISA its name.
#include <algorithm>
#include <cstdlib>
#include <new>

#include "attention.h"
#include "kernels.h"
#include "kernels_quantized.h"
#include "probe.h"
#include "product.h"
#include "rows.h"
#include "scan.h"

#define TABLE_OF(isa) kernels_##isa
#define TABLE(isa) TABLE_OF(isa)
#define NAME_OF(isa) #isa
#define NAME(isa) NAME_OF(isa)

namespace octavo {

using namespace OCTAVO_ISA;

namespace {

using Floats = PlainBlocks<Single>;
using Halves = PlainBlocks<Pair>;

template <class Blocks>
size_t head_bytes(int head_dim) {
    return Blocks::head_bytes(head_dim);
}

}  // namespace

extern const Kernels TABLE(OCTAVO_ISA);
const Kernels TABLE(OCTAVO_ISA) = {
    NAME(OCTAVO_ISA),
    ROW_BLOCK_BYTES,
    {product<F32Form>, product<BF16Form>, product_int8, product_group4, product_group4_centred, product_group5,
     product_group5_centred, product_group6_centred16, product_group8_centred},
    activation_bytes,
    to_activations,
    rms_norm,
    {head_bytes<Floats>, head_bytes<Halves>, head_bytes<ByteBlocks>},
    {store_token<Floats>, store_token<Halves>, store_token<ByteBlocks>},
    {attend<Floats>, attend<Halves>, attend<ByteBlocks>},
    combine,
    release_tiles,
    read_memory,
    multiply,
    pack_quantized,
    SCANS,
};

}  // namespace octavo
