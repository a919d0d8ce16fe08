// Memory from the system; and the KV pool's, had page by page before a step needs it.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

namespace octavo {

// Zeros, straight from the system, in huge pages where it has them; a page costs memory once it has been written.
class Pages {
  public:
    explicit Pages(size_t bytes);
    ~Pages();
    Pages(const Pages&) = delete;
    Pages& operator=(const Pages&) = delete;

    char* data() const { return data_; }  // null if the system has no room for them

  private:
    const size_t bytes_;
    char* data_;
};

// The first write to a page waits until the system has found and cleared it: on a virtual machine whose host supplies
// memory on demand at 0.5 GB/s, a tenth of a prefill. A thread that runs only when a processor has nothing else to do
// writes to the pages of the next AHEAD_BYTES of blocks, and changes nothing in them.
class WriteAhead {
  public:
    // Of the pool that `pool` points to: num_layers × num_blocks × block_bytes. Block 0 is the first to be used.
    // cpus: where the thread may run; empty for anywhere.
    WriteAhead(char* pool, int num_layers, size_t num_blocks, size_t block_bytes, const std::vector<int>& cpus);
    ~WriteAhead();

    // All blocks before `end` have been used. From one thread at a time; never waits.
    void used(size_t end);

  private:
    static constexpr size_t AHEAD_BYTES = 512 << 20;

    void follow(const std::vector<int>& cpus);
    void touch(size_t block);  // in all layers

    char* const pool_;
    const size_t num_layers_, num_blocks_, block_bytes_, ahead_;  // ahead_: in blocks
    std::mutex mutex_;
    std::condition_variable woken_;
    size_t used_ = 0;  // the blocks before this one; written by `used` alone
    size_t seen_ = 0;  // the same, of `used` alone
    bool ending_ = false;
    std::thread thread_;
};

}  // namespace octavo
