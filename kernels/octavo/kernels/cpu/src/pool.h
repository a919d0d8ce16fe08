// A team of threads that goes through a step together: woken when it begins, spinning at its barriers, asleep
// between steps. The thread that calls is one of the team.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace octavo {

class Pool;

// One thread's view of a job: which of the team it is, and its share of the work.
class Worker {
  public:
    Worker(Pool& pool, int rank) : pool(pool), rank(rank) {}
    ~Worker();

    Pool& pool;
    const int rank;

    // Waits until all of the team are here. What they wrote before is seen by all after.
    void barrier();

    // Calls body(begin, end) for pieces of [0, count) of at most `piece` until the team has done all of them. Each
    // thread has a stretch of its own, so that it goes through memory in order; who is done with it helps the others.
    // Every thread must come by, in the same order. Does not wait: see `barrier`.
    template <class Body>
    void share(int count, int piece, const Body& body);

  private:
    int loop_ = 0;  // how many `share`s this thread has come by
};

class Pool {
  public:
    // num_threads: the caller's included. cpus: where each thread of the team stays while a job runs; empty for
    // anywhere.
    Pool(int num_threads, std::vector<int> cpus);
    ~Pool();

    int size() const { return size_; }
    // Where the stretch of [0, count) begins that `Worker::share` gives to a thread first.
    int first_of(int count, int rank) const { return int(int64_t(count) * rank / size_); }
    const std::vector<int>& cpus() const { return cpus_; }

    // Runs job(worker) on every thread of the team; returns when all are done. From one thread at a time.
    void run(const std::function<void(Worker&)>& job);

  private:
    friend class Worker;

    // More loops in one job than this would reuse a counter that a slow thread still reads; a barrier in between
    // makes that impossible, and every second loop or so has one.
    static constexpr int NUM_LOOPS = 256;

    // How much of its stretch of a loop is taken, for each thread.
    struct alignas(64) Counter {
        std::atomic<int> taken{0};
    };
    std::atomic<int>& counter(int loop, int rank) { return counters_[loop * size_ + rank].taken; }

    void follow(int rank);

    const int size_;
    const std::vector<int> cpus_;
    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable woken_;
    const std::function<void(Worker&)>* job_ = nullptr;
    long generation_ = 0;
    bool ending_ = false;
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<long> barriers_{0};
    alignas(64) std::atomic<int> running_{0};
    std::unique_ptr<Counter[]> counters_;
};

template <class Body>
void Worker::share(int count, int piece, const Body& body) {
    if (pool.size_ == 1) {
        if (count > 0) body(0, count);
        return;
    }
    const int at = loop_++ % Pool::NUM_LOOPS, size = pool.size_;
    // The counter half a ring ahead is of no use to anybody now: all have passed at least one barrier since.
    pool.counter((at + Pool::NUM_LOOPS / 2) % Pool::NUM_LOOPS, rank).store(0, std::memory_order_relaxed);
    for (int i = 0; i < size; i++) {
        const int of = (rank + i) % size;
        const int first = pool.first_of(count, of), last = pool.first_of(count, of + 1);
        std::atomic<int>& taken = pool.counter(at, of);
        for (;;) {
            const int begin = first + taken.fetch_add(piece, std::memory_order_relaxed);
            if (begin >= last) break;
            body(begin, begin + piece < last ? begin + piece : last);
        }
    }
}

}  // namespace octavo
