// Compiled once for each instruction set, with OCTAVO_ISA its name.
#include "kernels.h"
#include "product.h"

#define TABLE_OF(isa) kernels_##isa
#define TABLE(isa) TABLE_OF(isa)
#define NAME_OF(isa) #isa
#define NAME(isa) NAME_OF(isa)

namespace octavo {

extern const Kernels TABLE(OCTAVO_ISA);
const Kernels TABLE(OCTAVO_ISA) = {
    NAME(OCTAVO_ISA),
    {OCTAVO_ISA::product<OCTAVO_ISA::F32Form>, OCTAVO_ISA::product<OCTAVO_ISA::BF16Form>},
};

}  // namespace octavo
