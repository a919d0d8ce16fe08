// Compiled once for each instruction set, with OCTAVO_ISA its name.
#include <algorithm>
#include <cstdlib>
#include <new>

#include "attention.h"
#include "kernels.h"
#include "probe.h"
#include "kernels_quantized.h"
#include "product.h"
#include "rows.h"
#include "scan.h"

#define TABLE_OF(isa) kernels_##isa
#define TABLE(isa) TABLE_OF(isa)
#define NAME_OF(isa) #isa
#define NAME(isa) NAME_OF(isa)

namespace octavo {

using namespace OCTAVO_ISA;

extern const Kernels TABLE(OCTAVO_ISA);
const Kernels TABLE(OCTAVO_ISA) = {
    NAME(OCTAVO_ISA),
    {product<F32Form>, product<BF16Form>, product_int8, product_group4, product_group4_centred, product_group5,
     product_group5_centred, product_group6_centred16, product_group8_centred},
    to_activations,
    rms_norm,
    {store_token<Single>, store_token<Pair>},
    {attend<Single>, attend<Pair>},
    combine,
    read_memory,
    multiply,
    pack_quantized,
    SCANS,
};

}  // namespace octavo
