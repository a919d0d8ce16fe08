#include <cstdlib>
#include <cstring>

#include "kernels.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace octavo {
namespace {

#if defined(__x86_64__)
// Whether this process may use AMX's tiles: Linux saves their 8 KiB for threads of processes that asked, no others'.
bool may_use_tiles() {
#if defined(__linux__)
    constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    return !syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA);
#else
    return false;
#endif
}

bool runs(const Kernels& set) {
    __builtin_cpu_init();
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    const bool bf16 = vnni && __builtin_cpu_supports("avx512bf16");
    if (&set == &kernels_amx)
        return bf16 && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
               __builtin_cpu_supports("amx-int8") && may_use_tiles();
    if (&set == &kernels_avx512bf16) return bf16;
    if (&set == &kernels_avx512vnni) return vnni;
    if (&set == &kernels_avx512) return avx512;
    const bool avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (&set == &kernels_avxvnni) return avx2 && __builtin_cpu_supports("avxvnni");
    if (&set == &kernels_avx2) return avx2;
    return true;
}
// Intel's VDPBF16PS is slower than float32: a prefill of 950 tokens/s instead of 1,350.
bool is_slow(const Kernels& set) { return &set == &kernels_avx512bf16 && __builtin_cpu_is("intel"); }
const Kernels* const ALL[] = {&kernels_amx,     &kernels_avx512bf16, &kernels_avx512vnni, &kernels_avx512,
                              &kernels_avxvnni, &kernels_avx2,       &kernels_generic};
#else
bool runs(const Kernels&) { return true; }
bool is_slow(const Kernels&) { return false; }
const Kernels* const ALL[] = {&kernels_generic};
#endif

}  // namespace

const Kernels& kernels() {
    // A lesser set can be asked for, to test it on a machine that has a better one.
    static const Kernels& chosen = []() -> const Kernels& {
        const char* wanted = std::getenv("OCTAVO_ISA");
        for (const Kernels* set : ALL)
            if (runs(*set) && (wanted ? !std::strcmp(wanted, set->name) : !is_slow(*set))) return *set;
        return kernels_generic;
    }();
    return chosen;
}

}  // namespace octavo
