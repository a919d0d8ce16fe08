#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace octavo {
namespace {

#if defined(__x86_64__)
bool runs(const Kernels& set) {
    __builtin_cpu_init();
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (&set == &kernels_avx512bf16)
        return avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
    if (&set == &kernels_avx512) return avx512;
    if (&set == &kernels_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    return true;
}
const Kernels* const ALL[] = {&kernels_avx512bf16, &kernels_avx512, &kernels_avx2, &kernels_generic};
#else
bool runs(const Kernels&) { return true; }
const Kernels* const ALL[] = {&kernels_generic};
#endif

}  // namespace

const Kernels& kernels() {
    // A lesser set can be asked for, to test it on a machine that has a better one.
    static const Kernels& chosen = []() -> const Kernels& {
        const char* wanted = std::getenv("OCTAVO_ISA");
        for (const Kernels* set : ALL)
            if (runs(*set) && (!wanted || !std::strcmp(wanted, set->name))) return *set;
        return kernels_generic;
    }();
    return chosen;
}

}  // namespace octavo
