// One token for every row of a batch, and the log-probabilities of prompts' tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "choice.h"
#include "pool.h"

namespace octavo {

// Logits of some rows, `stride` floats apart.
struct LogitsOfRows {
    const float* values;
    size_t stride;
    int32_t num_rows;
    int32_t vocab_size;
};

// Tokens and their values, likeliest first: [num_rows, most], each row as far as it is asked for; null where no row
// asks for any.
struct Ranks {
    int32_t* tokens;
    float* values;
    int32_t most;
};

// `octavo.engine.batch.SamplingBatch` beside its logits, and where the results go. Ctypes has the same fields.
struct Sampling {
    LogitsOfRows logits;
    const float *temperature, *top_p, *min_p;
    const int32_t* top_k;
    const uint64_t* seeds;
    const int64_t* draws;
    const float *repetition, *frequency, *presence;
    const int32_t *seen_rows, *seen_tokens;
    const float* seen_counts;
    const int32_t *bias_rows, *bias_tokens;
    const float* bias_values;
    const int32_t *logprobs, *candidates, *mask_rows;
    const uint32_t* masks;  // [num_masked, mask_words]
    int32_t num_seen, num_biases, num_masked, mask_words;
    int32_t* token_ids;
    float* token_logprobs;  // null where no row asks for log-probabilities, as `top` is
    Ranks top, best;
};

// `ScoringBatch` beside its logits.
struct Scoring {
    LogitsOfRows logits;
    const int32_t* targets;
    float* logprobs;
    Ranks top;
};

// Which entries of a sparse list are of a row, in their order.
class Entries {
  public:
    void sort(const int32_t* rows, int num_entries, int num_rows);
    const int* begin(int row) const { return order_.data() + starts_[row]; }
    const int* end(int row) const { return order_.data() + starts_[row + 1]; }
    bool any(int row) const { return starts_[row + 1] > starts_[row]; }

  private:
    std::vector<int> starts_, order_;
};

// Keeps the memory that choosing takes. For one call at a time.
class Sampler {
  public:
    void sample(Pool& pool, const Sampling& sampling);
    void score(Pool& pool, const Scoring& scoring);

  private:
    void edit(const Sampling& sampling, Row& row, int at);

    std::vector<Row> rows_;  // one for each thread
    Entries seen_, biases_;
    std::vector<int> mask_of_;  // of each row, or -1
};

}  // namespace octavo
