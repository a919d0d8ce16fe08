// What ranks on this machine tell each other in the middle of a step: through memory that their processes share.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace octavo {

// One rank's place among several, as Python fills it in: see library.py.
struct Group {
    int32_t rank, size;
    void* memory;  // laid out as octavo.engine.parallel.exchange draws it
    size_t slot_bytes;
    double patience;              // seconds to wait for another rank; negative for as long as it takes
    const int32_t* first_tokens;  // [size + 1], where each rank's part of the vocabulary begins; copied
};

// How a meeting, or a step, has ended: MET, GIVEN_UP by rank 0's watch, or the number of a rank that was waited for in
// vain.
enum Meeting : int32_t { MET = -1, GIVEN_UP = -2 };

// One rank's end. A rank writes into its own slot, meets the others, and reads theirs before it meets them again: it
// has two slots that it uses in turn, so that nobody writes what another one still reads.
class Exchange {
  public:
    explicit Exchange(const Group& group);

    const int rank, size;
    const std::vector<int32_t> first_tokens;
    const size_t slot_bytes;

    int tokens_of(int rank) const { return first_tokens[rank + 1] - first_tokens[rank]; }

    // Where this rank writes before the next meeting.
    float* own() const { return slot(turn_ + 1, rank); }

    // What a rank wrote before the last one.
    const float* of(int rank) const { return slot(turn_, rank); }

    // Waits for all ranks. By one thread of each rank at a time.
    int32_t meet();

  private:
    float* slot(int64_t turn, int rank) const {
        return reinterpret_cast<float*>(slots_ + (size_t(turn % 2) * size + rank) * slot_bytes);
    }
    std::atomic<int64_t>& count(int rank) const;
    int32_t wait_for(int other) const;

    char* const memory_;
    char* const slots_;
    const double patience_;
    int64_t turn_;
};

}  // namespace octavo
