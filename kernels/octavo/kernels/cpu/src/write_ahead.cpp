#include "write_ahead.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>

namespace octavo {
namespace {

constexpr size_t PAGE = 4096;

// Lets `thread` run only where no other one wants to, or as others do again; false if the system does not.
bool be_idle(pthread_t thread, bool idle) {
#if defined(__linux__)
    const sched_param none{};
    return !pthread_setschedparam(thread, idle ? SCHED_IDLE : SCHED_OTHER, &none);
#else
    return false;
#endif
}

// A write that changes nothing, whoever else writes there: where there is a 0, a 0 is put.
void write_nothing(char* at) {
    char expected = 0;
    __atomic_compare_exchange_n(at, &expected, 0, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

}  // namespace

Pages::Pages(size_t bytes) : bytes_(std::max(bytes, PAGE)) {
    void* found = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    data_ = found == MAP_FAILED ? nullptr : static_cast<char*>(found);
#if defined(MADV_HUGEPAGE)
    if (data_) madvise(data_, bytes_, MADV_HUGEPAGE);
#endif
}

Pages::~Pages() {
    if (data_) munmap(data_, bytes_);
}

WriteAhead::WriteAhead(
    char* pool, int num_layers, size_t num_blocks, size_t block_bytes, const std::vector<int>& cpus)
    : pool_(pool), num_layers_(num_layers), num_blocks_(num_blocks), block_bytes_(block_bytes),
      ahead_(AHEAD_BYTES / (num_layers * block_bytes)), thread_([this, cpus] { follow(cpus); }) {}

WriteAhead::~WriteAhead() {
    be_idle(thread_.native_handle(), false);  // if it may, so that it need not wait for a processor to end
    {
        std::lock_guard<std::mutex> lock(mutex_);
        ending_ = true;
    }
    woken_.notify_all();
    thread_.join();
}

void WriteAhead::used(size_t end) {
    seen_ = std::max(seen_, end);
    if (seen_ <= used_) return;
    // Never waited for: the thread that holds it may not get a processor soon. The next step tries again.
    std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock) return;
    used_ = seen_;
    lock.unlock();
    woken_.notify_all();
}

void WriteAhead::follow(const std::vector<int>& cpus) {
#if defined(__linux__)
    pthread_setname_np(pthread_self(), "octavo-ahead");
    if (!cpus.empty()) {
        cpu_set_t set;
        CPU_ZERO(&set);
        for (int cpu : cpus) CPU_SET(cpu, &set);
        pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    }
#endif
    if (!be_idle(pthread_self(), true)) return;
    for (size_t block = 0; block < num_blocks_; block++) {
        {
            std::unique_lock<std::mutex> lock(mutex_);
            woken_.wait(lock, [&] { return ending_ || block < used_ + ahead_; });
            if (ending_) return;
            block = std::max(block, used_);
        }
        if (block < num_blocks_) touch(block);
    }
}

void WriteAhead::touch(size_t block) {
    for (size_t layer = 0; layer < num_layers_; layer++) {
        char* const start = pool_ + (layer * num_blocks_ + block) * block_bytes_;
        for (size_t at = 0; at < block_bytes_; at += PAGE) write_nothing(start + at);
    }
}

}  // namespace octavo
