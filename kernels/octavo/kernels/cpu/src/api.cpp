// What Python calls, by ctypes: plain pointers and integers. Every function releases nothing and keeps nothing but
// what its comment says.
#include <vector>

#include "kernels.h"
#include "pool.h"

#define API extern "C" __attribute__((visibility("default")))

using namespace octavo;

API const char* octavo_isa() { return kernels().name; }

// cpus: of each thread, or null for anywhere.
API Pool* octavo_pool_new(int num_threads, const int* cpus) {
    return new Pool(num_threads, cpus ? std::vector<int>(cpus, cpus + num_threads) : std::vector<int>());
}
API void octavo_pool_free(Pool* pool) { delete pool; }

API void octavo_product(Pool* pool, const Product* product) {
    const int panels = (product->linear->n + PANEL - 1) / PANEL;
    pool->run([&](Worker& worker) {
        worker.share(panels, 1, [&](int first, int last) {
            kernels().product[product->linear->form](*product, first, last);
        });
    });
}
