#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "kernels.h"

namespace octavo {
namespace {

constexpr float NOTHING = -std::numeric_limits<float>::infinity();

// Groups of one row that a thread takes at once, if there are fewer rows than threads.
constexpr int PIECE = 16;

// What is done with some of the rows before the next step begins: with a group at a time, or with the whole row.
enum Extent { GROUPS, WHOLE };
struct Step {
    std::function<bool(int row)> concerns;
    Extent extent;
    std::function<void(Row&, int row, int first, int last)> run;
};

bool all(int) { return true; }

// Takes every row through its steps. A thread has rows of its own if there are enough of them, so that they stay in
// its cache; else all threads work on the same rows. What comes out is the same.
void go_through(Pool& pool, std::vector<Row>& slots, const LogitsOfRows& logits, const std::vector<Step>& steps) {
    const int num_rows = logits.num_rows, groups = stretches_of(logits.vocab_size);
    if (int(slots.size()) < pool.size()) slots.resize(pool.size());
    for (Row& slot : slots) slot.reserve(logits.vocab_size);
    const auto begin = [&](Row& slot, int row) {
        slot.begin(logits.values + row * logits.stride, logits.vocab_size);
    };
    const auto rows_by_thread = [&](Worker& worker) {
        Row& slot = slots[worker.rank];
        worker.share(num_rows, 1, [&](int first_row, int last_row) {
            for (int row = first_row; row < last_row; row++) {
                begin(slot, row);
                for (const Step& step : steps)
                    if (step.concerns(row)) step.run(slot, row, 0, groups);
            }
        });
    };
    const auto rows_by_team = [&](Worker& worker) {
        for (const Step& step : steps) {
            bool concerned = false;
            for (int row = 0; row < num_rows; row++) concerned |= step.concerns(row);
            if (!concerned) continue;
            const int pieces = step.extent == WHOLE ? 1 : (groups + PIECE - 1) / PIECE;
            worker.share(num_rows * pieces, 1, [&](int i, int end) {
                for (; i < end; i++) {
                    const int row = i / pieces, first = i % pieces * PIECE;
                    if (!step.concerns(row)) continue;
                    step.run(slots[row], row, first, step.extent == WHOLE ? groups : std::min(first + PIECE, groups));
                }
            });
            worker.barrier();
        }
    };
    if (num_rows >= pool.size()) return pool.run(rows_by_thread);
    for (int row = 0; row < num_rows; row++) begin(slots[row], row);
    pool.run(rows_by_team);
}

// Of SplitMix64, as in `octavo.kernels.random`.
constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15;

uint64_t mix(uint64_t x) {
    x += GOLDEN;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
}

double uniform(uint64_t seed, int64_t draw) { return (mix(mix(seed) + uint64_t(draw) * GOLDEN) >> 12) * 0x1p-52; }

void scan(Row& row, int, int first, int last) {
    kernels().scans.peaks(row.logits.values, row.logits.count, first, last, row.peaks.data());
}

void weigh(Row& row, int, int first, int last) {
    kernels().scans.weigh(row.logits, row.peaks.data(), first, last, row.sums.data());
}

// Zero where all is forbidden: there is nothing to take it off from.
float shift_of(float largest) { return largest == NOTHING ? 0 : largest; }

// The sums of the logits as they are, which log-probabilities come from.
void weigh_model(Row& row, int, int first, int last) {
    Scaled model = row.logits;
    model.shift = shift_of(row.largest());
    kernels().scans.weigh(model, row.peaks.data(), first, last, row.sums.data());
}

void normalise(Row& row, int, int, int) {
    row.shift = shift_of(row.largest());
    row.log_total = float(std::log(row.total()));
}

template <class Value>
void report(Row& row, int at, int count, const Ranks& ranks, const Value& value) {
    if (!count) return;
    const uint64_t* ranked;
    count = row.rank(count, &ranked);
    for (int i = 0; i < count; i++) {
        ranks.tokens[size_t(at) * ranks.most + i] = token_of(ranked[i]);
        ranks.values[size_t(at) * ranks.most + i] = value(value_of(ranked[i]));
    }
}

float bound_of_min_p(const Row& row, float min_p) {
    return min_p > 0 ? row.largest() / row.logits.temperature + std::log(min_p) : NOTHING;
}

// Makes the logits what they are drawn from, but for top-p, which needs the sums.
void scale(const Sampling& s, Row& row, int at) {
    row.logits.temperature = s.temperature[at];
    row.logits.shift = shift_of(row.largest() / s.temperature[at]);
    if (s.top_k[at] > 0 && s.top_k[at] < row.logits.count) row.logits.bound = row.bound_of_top_k(s.top_k[at]);
    if (!(s.top_p[at] < 1)) row.logits.bound = std::max(row.logits.bound, bound_of_min_p(row, s.min_p[at]));
}

int draw(const Sampling& s, Row& row, int at) {
    if (s.top_p[at] < 1) {
        row.logits.bound = std::max(row.bound_of_top_p(s.top_p[at]), bound_of_min_p(row, s.min_p[at]));
        weigh(row, at, 0, stretches_of(row.logits.count));
    }
    return row.draw(uniform(s.seeds[at], s.draws[at]));
}

}  // namespace

void Entries::sort(const int32_t* rows, int num_entries, int num_rows) {
    starts_.assign(num_rows + 1, 0);
    order_.resize(num_entries);
    for (int i = 0; i < num_entries; i++) starts_[rows[i] + 1]++;
    for (int row = 0; row < num_rows; row++) starts_[row + 1] += starts_[row];
    // Where a row's next entry goes stands at its start, which ends as the next row's.
    for (int i = 0; i < num_entries; i++) order_[starts_[rows[i]]++] = i;
    std::copy_backward(starts_.begin(), starts_.end() - 1, starts_.end());
    starts_[0] = 0;
}

void Sampler::edit(const Sampling& s, Row& row, int at) {
    const int count = s.logits.vocab_size;
    const float* const values = row.logits.values;
    row.edited.resize(count);
    float* const edited = row.edited.data();
    if (s.candidates[at])
        for (int i = 0; i < count; i++) edited[i] = row.logprob(values[i]);
    else
        std::copy(values, values + count, edited);
    for (const int* i = seen_.begin(at); i < seen_.end(at); i++) {
        float& value = edited[s.seen_tokens[*i]];
        value = value > 0 ? value / s.repetition[at] : value * s.repetition[at];
        value -= s.frequency[at] * s.seen_counts[*i] + (s.seen_counts[*i] > 0 ? s.presence[at] : 0);
    }
    for (const int* i = biases_.begin(at); i < biases_.end(at); i++) edited[s.bias_tokens[*i]] += s.bias_values[*i];
    if (mask_of_[at] >= 0)
        kernels().scans.mask(edited, count, s.masks + size_t(mask_of_[at]) * s.mask_words);
    row.begin(edited, count);
}

void Sampler::sample(Pool& pool, const Sampling& s) {
    seen_.sort(s.seen_rows, s.num_seen, s.logits.num_rows);
    biases_.sort(s.bias_rows, s.num_biases, s.logits.num_rows);
    mask_of_.assign(s.logits.num_rows, -1);
    for (int i = 0; i < s.num_masked; i++) mask_of_[s.mask_rows[i]] = i;

    const auto searched = [&](int row) { return s.candidates[row] > 0; };
    const auto reported = [&](int row) { return s.logprobs[row] >= 0; };
    const auto normalised = [&](int row) { return searched(row) || reported(row); };
    const auto edited = [&](int row) {
        return searched(row) || seen_.any(row) || biases_.any(row) || mask_of_[row] >= 0;
    };
    const auto drawn = [&](int row) { return s.temperature[row] > 0 && !searched(row); };

    const auto report_model = [&](Row& row, int at, int, int) {
        report(row, at, s.logprobs[at], s.top, [&](float value) { return row.logprob(value); });
    };
    const auto choose = [&](Row& row, int at, int, int) {
        const int token = drawn(at) ? draw(s, row, at) : row.likeliest();
        s.token_ids[at] = token;
        report(row, at, s.candidates[at], s.best, [](float value) { return value; });
        if (reported(at)) s.token_logprobs[at] = row.logprob((s.logits.values + at * s.logits.stride)[token]);
    };
    go_through(pool, rows_, s.logits,
               {
                   {[&](int row) { return normalised(row) || !edited(row); }, GROUPS, scan},
                   {normalised, GROUPS, weigh_model},
                   {normalised, WHOLE, normalise},
                   {reported, WHOLE, report_model},
                   {edited, WHOLE, [&](Row& row, int at, int, int) { edit(s, row, at); }},
                   {edited, GROUPS, scan},
                   {drawn, WHOLE, [&](Row& row, int at, int, int) { scale(s, row, at); }},
                   {drawn, GROUPS, weigh},
                   {all, WHOLE, choose},
               });
}

void Sampler::score(Pool& pool, const Scoring& s) {
    const auto finish = [&](Row& row, int at, int, int) {
        s.logprobs[at] = row.logprob(row.logits.values[s.targets[at]]);
        report(row, at, s.top.most, s.top, [&](float value) { return row.logprob(value); });
    };
    go_through(pool, rows_, s.logits,
               {
                   {all, GROUPS, scan},
                   {all, GROUPS, weigh_model},
                   {all, WHOLE, normalise},
                   {all, WHOLE, finish},
               });
}

}  // namespace octavo
