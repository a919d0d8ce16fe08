#include "choice.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>

#include "kernels.h"

namespace octavo {
namespace {

constexpr float NOTHING = -std::numeric_limits<float>::infinity();

// How many of the likeliest tokens usually have top-p of the weight, and how many are sorted to find the last.
constexpr int NUCLEUS = 128, FEW = 512;

float from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
uint32_t to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

}  // namespace

void Row::reserve(int vocab_size) {
    if (vocab_size <= room_) return;
    room_ = vocab_size;
    ranked_.reset(new uint64_t[vocab_size]);  // untouched until something is ranked
}

void Row::begin(const float* values, int vocab_size) {
    logits = {values, vocab_size, 1, 0, NOTHING};
    peaks.resize(stretches_of(vocab_size) * LANES);
    sums.resize(stretches_of(vocab_size));
}

float Row::largest() const { return *std::max_element(peaks.begin(), peaks.end()); }

int Row::likeliest() const {
    const auto peak = std::max_element(peaks.begin(), peaks.end());
    const int group = (peak - peaks.begin()) / LANES;
    const float* const end = logits.values + std::min((group + 1) * STRETCH, logits.count);
    const float* const found = std::find(logits.values + group * STRETCH, end, *peak);
    return found == end ? 0 : found - logits.values;
}

float Row::reached_by(int count) {
    if (count > int(peaks.size())) return NOTHING;
    order_ = peaks;
    std::nth_element(order_.begin(), order_.begin() + count - 1, order_.end(), std::greater<float>());
    return order_[count - 1];
}

int Row::collect(float bound) {
    Scaled within = logits;
    within.bound = std::max(bound, logits.bound);
    return kernels().scans.collect(within, peaks.data(), 0, stretches_of(logits.count), ranked_.get());
}

int Row::rank(int count, const uint64_t** ranked) {
    const int found = collect(reached_by(count) / logits.temperature);
    count = std::min(count, found);
    uint64_t* const first = ranked_.get();
    std::partial_sort(first, first + count, first + found, std::greater<uint64_t>());
    *ranked = first;
    return count;
}

float Row::bound_of_top_k(int top_k) {
    const int found = collect(reached_by(top_k) / logits.temperature);
    if (found < top_k) return logits.bound;
    uint64_t* const first = ranked_.get();
    std::nth_element(first, first + top_k - 1, first + found, std::greater<uint64_t>());
    return value_of(first[top_k - 1]);
}

float Row::bound_of_top_p(double top_p) {
    const double all = total(), wanted = top_p * all;
    // If all tokens had this weight or less, they would have no more than what top-p may leave out.
    const float light = (all - wanted) / logits.count;
    const int found = collect(reached_by(NUCLEUS) / logits.temperature);
    if (found > 4 * FEW) return settle_top_p(wanted, light);
    uint64_t* const first = ranked_.get();
    std::sort(first, first + found, std::greater<uint64_t>());
    weights_.resize(found);
    order_.resize(found);
    for (int i = 0; i < found; i++) order_[i] = value_of(first[i]);
    kernels().scans.weights({order_.data(), found, 1, logits.shift, NOTHING}, 0, found, weights_.data());
    double before = 0;
    for (int i = 0; i < found; i++)
        if ((before += weights_[i]) >= wanted) return order_[i];
    return settle_top_p(wanted, light);
}

// Halves the range of weights that the last one is in until few tokens are left, or only tokens of one weight.
float Row::settle_top_p(double wanted, float light) {
    const Scans& scans = kernels().scans;
    const int count = logits.count;
    weights_.resize(count);
    scans.weights(logits, 0, count, weights_.data());
    // Those of at least `low` have enough, those of at least `high` have not. Weights are in [0, 1]; floats that are
    // not negative are in the order of their bits, and halfway between two is about the geometric mean.
    uint32_t low = std::max(to_bits(0.99f * light), 1u), high = to_bits(1.f) + 1;
    double above = 0, sum;
    int fewest = 0, most = scans.mass(weights_.data(), count, from_bits(low), &sum);
    if (sum < wanted) return logits.bound;  // by rounding
    while (most - fewest > FEW && high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        const int heavy = scans.mass(weights_.data(), count, from_bits(middle), &sum);
        if (sum < wanted)
            high = middle, fewest = heavy, above = sum;
        else
            low = middle, most = heavy;
    }
    uint64_t* const first = ranked_.get();
    const Scaled of_weights = {weights_.data(), count, 1, 0, from_bits(low)};
    uint64_t* const last = first + scans.collect(of_weights, nullptr, 0, stretches_of(count), first);
    uint64_t* const inner = std::partition(first, last, [&](uint64_t r) { return value_of(r) >= from_bits(high); });
    float bound = std::numeric_limits<float>::infinity();
    const auto keep = [&](uint64_t r) { bound = std::min(bound, logits.values[token_of(r)] / logits.temperature); };
    if (high - low == 1) {
        std::for_each(inner, last, keep);
        return bound;
    }
    std::sort(inner, last, std::greater<uint64_t>());
    for (uint64_t* r = inner; r < last && above < wanted; r++) above += value_of(*r), keep(*r);
    return bound;
}

double Row::total() const {
    double total = 0;
    for (double sum : sums) total += sum;
    return total;
}

int Row::draw(double point) const {
    point *= total();
    double below = 0;
    size_t group = 0;
    // As the sums were added up above, so that one of them always goes beyond the point.
    while (group < sums.size() && !(below + sums[group] > point)) below += sums[group++];
    if (group == sums.size()) return likeliest();  // not a number
    const int begin = group * STRETCH, end = std::min(begin + STRETCH, logits.count);
    float weights[STRETCH];
    kernels().scans.weights(logits, begin, end, weights);
    int token = begin;
    for (int i = begin; i < end && !(below > point); i++) {
        below += weights[i - begin];
        if (weights[i - begin] > 0) token = i;  // the last one, should this order of the sum fall short
    }
    return token;
}

}  // namespace octavo
