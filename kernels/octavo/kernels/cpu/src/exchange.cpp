#include "exchange.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "pause.h"

namespace octavo {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr size_t LINE = 64;
constexpr int SPINS_BETWEEN_LOOKS = 64;

// Seconds of waiting for which the processor is kept, and for which it is given to whoever else wants it.
constexpr double KEPT = 50e-6, LENT = 2e-3;
constexpr std::chrono::microseconds NAP(50);

// Seconds that count as waiting between two looks at the clock: who was stopped itself has not waited meanwhile.
constexpr double LONGEST_LOOK = 0.1;

static_assert(sizeof(std::atomic<int64_t>) == 8 && std::atomic<int64_t>::is_always_lock_free,
              "processes share counts as plain integers");

}  // namespace

// Other models may have been computed over the same memory before: turns go on from the last one's.
Exchange::Exchange(const Group& group)
    : rank(group.rank), size(group.size), first_tokens(group.first_tokens, group.first_tokens + group.size + 1),
      slot_bytes(group.slot_bytes), memory_(static_cast<char*>(group.memory)), slots_(memory_ + size * LINE),
      patience_(group.patience), turn_(count(rank).load()) {}

std::atomic<int64_t>& Exchange::count(int rank) const {
    return *reinterpret_cast<std::atomic<int64_t>*>(memory_ + rank * LINE);
}

int32_t Exchange::meet() {
    turn_++;
    count(rank).store(turn_, std::memory_order_release);
    for (int other = 0; other < size; other++) {
        const int32_t ended = other == rank ? MET : wait_for(other);
        if (ended != MET) return ended;
    }
    return MET;
}

int32_t Exchange::wait_for(int other) const {
    const std::atomic<int64_t>& given_up = (&count(0))[1];
    double waited = 0;
    Clock::time_point before{};
    for (;;) {
        for (int i = 0; i < SPINS_BETWEEN_LOOKS; i++) {
            if (count(other).load(std::memory_order_acquire) >= turn_) return MET;
            if (waited < KEPT)
                pause();
            else
                sched_yield();
        }
        const Clock::time_point now = Clock::now();
        if (before != Clock::time_point{}) waited += std::min(Seconds(now - before).count(), LONGEST_LOOK);
        before = now;
        if (given_up.load(std::memory_order_relaxed)) return GIVEN_UP;
        if (patience_ >= 0 && waited > patience_) return other;
        if (waited > LENT) std::this_thread::sleep_for(NAP);
    }
}

}  // namespace octavo
