#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace darwin_neg {

// Calls work(i) once for every i in [0, n), on up to n_threads threads, and returns when all are done. `work` must not throw.
//
// Where ggml computes with OpenMP this runs on the very team that has just computed the graph: its threads spin for a while after
// each graph, and threads of our own would compete with them for the same cores.
template <typename F>
void parallel_for(int32_t n, int32_t n_threads, F && work) {
    if (n <= 1 || n_threads <= 1) {
        for (int32_t i = 0; i < n; ++i) {
            work(i);
        }
        return;
    }
#ifdef _OPENMP
    // always the same number of threads: libgomp ends the surplus of a team that shrinks, and makes them anew for the next graph
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
    for (int32_t i = 0; i < n; ++i) {
        work(i);
    }
#else
    std::atomic<int32_t> next{0};
    const auto run = [&] {
        for (int32_t i = next++; i < n; i = next++) {
            work(i);
        }
    };
    std::vector<std::thread> helpers;
    for (int32_t t = 1; t < n_threads && t < n; ++t) {
        helpers.emplace_back(run);
    }
    run();
    for (std::thread & helper : helpers) {
        helper.join();
    }
#endif
}

}  // namespace darwin_neg
