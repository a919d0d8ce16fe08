// What is chosen from one row of logits: the likeliest tokens, the bounds of the cuts, a draw.
//
// Nothing sorts the vocabulary. A row's peaks, the largest of every 32 tokens, give a bound that as many tokens reach
// as are wanted, and not many more; only those are ranked.
#pragma once

#include <memory>
#include <vector>

#include "logits.h"

namespace octavo {

// One row while its token is chosen, with the memory that this takes.
class Row {
  public:
    Scaled logits;
    std::vector<float> peaks;    // [groups, 16], of logits.values
    std::vector<double> sums;    // [groups], of the weights
    std::vector<float> edited;   // [vocab_size], logits of the row's own if it needs them
    float shift, log_total;      // of the logits as they are: what makes log-probabilities of them

    float logprob(float value) const { return (value - shift) - log_total; }

    // Makes room for so many tokens.
    void reserve(int vocab_size);

    // What the row is to be from now on, without any bound. Peaks and sums are to be made anew.
    void begin(const float* values, int vocab_size);

    // The largest value.
    float largest() const;
    // Its token, the lowest id of equal ones; 0 if all is forbidden.
    int likeliest() const;

    // Ranks the `count` likeliest of the tokens within the bound, likeliest first; how many these are. With a
    // temperature, by x.
    int rank(int count, const uint64_t** ranked);

    // The least x of the `top_k` likeliest tokens.
    float bound_of_top_k(int top_k);
    // The least x of the likeliest tokens that have `top_p` of the weight. Needs the sums.
    float bound_of_top_p(double top_p);

    // Sum of the sums.
    double total() const;
    // The token at `point`, in [0, 1), of the total, in order of ids (inversion). Needs the sums.
    int draw(double point) const;

  private:
    // A value that at least `count` tokens reach.
    float reached_by(int count);
    int collect(float bound);
    float settle_top_p(double wanted, float light);

    std::vector<float> order_;
    std::vector<float> weights_;
    std::unique_ptr<uint64_t[]> ranked_;
    int room_ = 0;
};

}  // namespace octavo
