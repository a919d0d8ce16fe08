// One row of logits, and the passes over it that are compiled once for each instruction set.
#pragma once

#include <cstdint>

namespace octavo {

// Tokens whose weights have one sum of their own. Every pass goes by whole groups, so that what a group yields does
// not depend on how the groups are shared out. 16 lanes of 32 tokens: what a group's peaks tell apart.
constexpr int STRETCH = 512, LANES = 16;

constexpr int stretches_of(int count) { return (count + STRETCH - 1) / STRETCH; }

// Logits as they are drawn from: x = value / temperature, of weight exp(x - shift) where x ≥ bound, else 0.
struct Scaled {
    const float* values;
    int count;
    float temperature;
    float shift;
    float bound;
};

// first, last: of the groups [first, last) of the row.
struct Scans {
    // peaks[g · 16 + lane]: the largest value of group g's tokens t with t mod 16 = lane. -inf where there is none.
    void (*peaks)(const float* values, int count, int first, int last, float* peaks);

    // sums[g]: of the weights of group g's tokens. peaks: of the values; groups below the bound are not looked at.
    void (*weigh)(const Scaled& row, const float* peaks, int first, int last, double* sums);

    // The weights of tokens [begin, end), begin a multiple of 16.
    void (*weights)(const Scaled& row, int begin, int end, float* weights);

    // Writes the `ranking` (below) of every token with x ≥ bound, by id; returns how many there are.
    // peaks: of the values, or null to look everywhere.
    int (*collect)(const Scaled& row, const float* peaks, int first, int last, uint64_t* ranked);

    // How many of the weights are at least `least`, and their sum.
    int (*mass)(const float* weights, int count, float least, double* sum);

    // Sets the values of the tokens whose bit is 0 to -inf.
    void (*mask)(float* values, int count, const uint32_t* bits);
};

// A value and its token as one number, greater if the value is, or the token's id lower with equal values.
inline uint64_t ranking(float value, uint32_t token) {
    value += 0.f;  // there is but one zero
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    bits ^= bits >> 31 ? 0xffffffff : 0x80000000;
    return uint64_t(bits) << 32 | uint32_t(~token);
}
inline int token_of(uint64_t ranking) { return int(~uint32_t(ranking)); }
inline float value_of(uint64_t ranking) {
    uint32_t bits = uint32_t(ranking >> 32);
    bits ^= bits >> 31 ? 0x80000000 : 0xffffffff;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace octavo
