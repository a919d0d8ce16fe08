// Sums of products of quads: of four unsigned weights of BITS bits and four signed bytes of at most 127. Exact.
#pragma once

#include "vec.h"

namespace OCTAVO_ISA {

// ROWS: how many rows have such sums at the same time. `start` is what a sum begins with: where weights have 8 bits,
// what takes back that they are counted from 128, which not all of those below need.
#if defined(__AVX2__) && !defined(__AVX512F__) && !defined(OCTAVO_VNNI)

// Without VPDPBUSD: VPMADDUBSW adds two products in 16 bits, where of weights of few bits several quads fit before they
// are widened.
template <int BITS, int ROWS>
class QuadSum {
  public:
    __attribute__((always_inline)) void begin(i32x16) { total_ = i32x16{}; }
    __attribute__((always_inline)) i32x16 total(i32x16 start) const { return BITS == 8 ? total_ : total_ + start; }

    // i: how many were added before.
    __attribute__((always_inline)) void add(int i, u32x16 weights, u32x16 x) {
        for (int p = 0; p < REGISTERS; p++) {
            const __m256i w = (__m256i)weights.part[p], a = (__m256i)x.part[p];
            if constexpr (BITS == 8) {
                // Counted from 128, and the sign moved to the other factor: 128 · 127 · 2 is within 16 bits.
                const __m256i centred = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
                widen(p, _mm256_maddubs_epi16(_mm256_abs_epi8(centred), _mm256_sign_epi8(a, centred)));
            } else {
                __m256i product;
                if (i % RUN == 0)
                    shorts_[p] = _mm256_maddubs_epi16(w, a);
                else if constexpr (RUN > 2 && ROWS > 1)
                    // As assembly: GCC would make all products first, far more than it has registers for, and then add.
                    asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0"
                        : "+x"(shorts_[p]), "=&x"(product)
                        : "x"(w), "x"(a));
                else
                    shorts_[p] = _mm256_add_epi16(shorts_[p], _mm256_maddubs_epi16(w, a));
                if (i % RUN == RUN - 1) widen(p, shorts_[p]);
            }
        }
    }

  private:
    // How many quads' pairs of products fit in 16 bits.
    static constexpr int RUN = 0x7fff / (((1 << BITS) - 1) * 127 * 2);

    __attribute__((always_inline)) void widen(int p, __m256i shorts) {
        total_.part[p] += (i32x16::Register)_mm256_madd_epi16(shorts, _mm256_set1_epi16(1));
    }

    i32x16 total_;
    __m256i shorts_[REGISTERS];
};

#else

template <int BITS, int ROWS>
class QuadSum {
  public:
    __attribute__((always_inline)) void begin(i32x16 start) { total_ = start; }
    __attribute__((always_inline)) i32x16 total(i32x16) const { return total_; }
    __attribute__((always_inline)) void add(int, u32x16 weights, u32x16 x) { total_ = dot_quads(total_, weights, x); }

  private:
    i32x16 total_;
};

#endif

}  // namespace OCTAVO_ISA
