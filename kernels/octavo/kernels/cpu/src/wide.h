// Vectors of 64 bytes where registers are smaller: several registers that are computed with as one.
//
// GCC has such vectors too, but keeps them in memory: a product's sums would be stored and loaded at every step.
#pragma once

#include <cstdint>
#include <cstring>

namespace OCTAVO_ISA {

#if defined(__AVX2__)
constexpr int REGISTER_BYTES = 32;
#else
constexpr int REGISTER_BYTES = 16;
#endif
constexpr int REGISTERS = 64 / REGISTER_BYTES;

template <class T>
struct Wide {
    typedef T Register __attribute__((vector_size(REGISTER_BYTES)));
    static constexpr int LANES = REGISTER_BYTES / sizeof(T);
    Register part[REGISTERS];

    // The same bits as other numbers.
    template <class U>
    explicit operator Wide<U>() const {
        Wide<U> as;
        for (int i = 0; i < REGISTERS; i++) as.part[i] = (typename Wide<U>::Register)part[i];
        return as;
    }
    T operator[](int lane) const { return part[lane / LANES][lane % LANES]; }
    Wide operator-() const {
        Wide v;
        for (int i = 0; i < REGISTERS; i++) v.part[i] = -part[i];
        return v;
    }
    Wide operator~() const {
        Wide v;
        for (int i = 0; i < REGISTERS; i++) v.part[i] = ~part[i];
        return v;
    }
};

#define OCTAVO_OPERATOR(OP)                                                          \
    template <class T>                                                               \
    INLINE Wide<T> operator OP(Wide<T> a, Wide<T> b) {                               \
        for (int i = 0; i < REGISTERS; i++) a.part[i] = a.part[i] OP b.part[i];      \
        return a;                                                                    \
    }                                                                                \
    template <class T, class U>                                                      \
    INLINE Wide<T> operator OP(Wide<T> a, U b) {                                     \
        for (int i = 0; i < REGISTERS; i++) a.part[i] = a.part[i] OP T(b);           \
        return a;                                                                    \
    }                                                                                \
    template <class T, class U>                                                      \
    INLINE Wide<T>& operator OP##=(Wide<T>& a, U b) {                                \
        return a = a OP b;                                                           \
    }
OCTAVO_OPERATOR(+)
OCTAVO_OPERATOR(-)
OCTAVO_OPERATOR(*)
OCTAVO_OPERATOR(/)
OCTAVO_OPERATOR(&)
OCTAVO_OPERATOR(|)
OCTAVO_OPERATOR(^)
OCTAVO_OPERATOR(<<)
OCTAVO_OPERATOR(>>)
#undef OCTAVO_OPERATOR

// All bits of a lane where it holds, else none.
#define OCTAVO_COMPARISON(OP)                                                                              \
    template <class T>                                                                                     \
    INLINE Wide<int32_t> operator OP(Wide<T> a, Wide<T> b) {                                               \
        Wide<int32_t> holds;                                                                               \
        for (int i = 0; i < REGISTERS; i++) holds.part[i] = (Wide<int32_t>::Register)(a.part[i] OP b.part[i]); \
        return holds;                                                                                      \
    }
OCTAVO_COMPARISON(<)
OCTAVO_COMPARISON(>)
OCTAVO_COMPARISON(>=)
OCTAVO_COMPARISON(==)
#undef OCTAVO_COMPARISON

}  // namespace OCTAVO_ISA
