// What a thread has fetched from memory, while it computes a product, for what comes after.
#pragma once

#include <algorithm>
#include <cstddef>

namespace octavo {

// Of a layer's cache, in bytes.
struct Stretch {
    size_t first, last;
};

class Ahead {
  public:
    // The first panel of this thread in the next product, after its last one in this product; or null.
    const char* weights = nullptr;

    // Stretches of a cache that attention will read.
    void begin(const char* cache, const Stretch* first, const Stretch* last) {
        cache_ = cache, at_ = first, last_ = last;
        from_ = first < last ? first->first : 0;
    }

    // The next so many bytes of them, which may begin before and end after what is left of a stretch; null after all.
    const char* take(size_t bytes) {
        if (at_ == last_) return nullptr;
        const Stretch& stretch = *at_;
        const size_t fit = stretch.last > bytes ? stretch.last - bytes : 0;
        const size_t from = std::max(std::min(from_, fit), stretch.first);
        from_ += bytes;
        if (from_ >= stretch.last && ++at_ < last_) from_ = at_->first;
        return cache_ + from;
    }

  private:
    const char* cache_ = nullptr;
    const Stretch *at_ = nullptr, *last_ = nullptr;
    size_t from_ = 0;
};

}  // namespace octavo
