#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include "kernels.h"
#include "pause.h"

namespace octavo {
namespace {

// About 50 µs: longer than any barrier is waited at while every thread has a processor to itself.
constexpr int SPINS = 1000;

template <class Condition>
void spin_until(const Condition& condition) {
    for (int spins = 0; !condition(); spins++) {
        if (spins < SPINS)
            pause();
        else
            sched_yield();  // somebody else needs this processor: perhaps the one that is waited for
    }
}

// Keeps the calling thread on one processor while it lives.
class Stay {
  public:
    explicit Stay(int cpu) {
#if defined(__linux__)
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        kept_ = !pthread_getaffinity_np(pthread_self(), sizeof before_, &before_) &&
                !pthread_setaffinity_np(pthread_self(), sizeof one, &one);
#endif
    }
    ~Stay() {
#if defined(__linux__)
        if (kept_) pthread_setaffinity_np(pthread_self(), sizeof before_, &before_);
#endif
    }

  private:
#if defined(__linux__)
    cpu_set_t before_;
#endif
    bool kept_ = false;
};

}  // namespace

Pool::Pool(int num_threads, std::vector<int> cpus)
    : size_(num_threads), cpus_(std::move(cpus)), counters_(new Counter[NUM_LOOPS * num_threads]) {
    for (int rank = 1; rank < size_; rank++) threads_.emplace_back([this, rank] { follow(rank); });
}

Pool::~Pool() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        ending_ = true;
    }
    woken_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void Pool::run(const std::function<void(Worker&)>& job) {
    if (size_ == 1) {
        Worker worker(*this, 0);
        job(worker);
        return;
    }
    for (int i = 0; i < NUM_LOOPS * size_; i++) counters_[i].taken.store(0, std::memory_order_relaxed);
    running_.store(size_ - 1, std::memory_order_relaxed);
    {
        std::lock_guard<std::mutex> lock(mutex_);
        job_ = &job;
        generation_++;
    }
    woken_.notify_all();
    auto lead = [&] {
        Worker worker(*this, 0);
        job(worker);
        spin_until([&] { return running_.load(std::memory_order_acquire) == 0; });
    };
    if (cpus_.empty()) return lead();
    Stay stay(cpus_[0]);
    lead();
}

void Pool::follow(int rank) {
    pthread_setname_np(pthread_self(), "octavo-compute");
    auto work = [&] {
        for (long seen = 0;;) {
            const std::function<void(Worker&)>* job;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                woken_.wait(lock, [&] { return ending_ || generation_ != seen; });
                if (ending_) return;
                seen = generation_;
                job = job_;
            }
            Worker worker(*this, rank);
            (*job)(worker);
            running_.fetch_sub(1, std::memory_order_release);
        }
    };
    if (cpus_.empty()) return work();
    Stay stay(cpus_[rank]);
    work();
}

Worker::~Worker() { kernels().release_tiles(); }

void Worker::barrier() {
    if (pool.size_ == 1) return;
    const long generation = pool.barriers_.load(std::memory_order_acquire);
    if (pool.arrived_.fetch_add(1, std::memory_order_acq_rel) == pool.size_ - 1) {
        pool.arrived_.store(0, std::memory_order_relaxed);
        pool.barriers_.store(generation + 1, std::memory_order_release);
    } else {
        spin_until([&] { return pool.barriers_.load(std::memory_order_acquire) != generation; });
    }
}

}  // namespace octavo
