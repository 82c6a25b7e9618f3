#include "parallel.h"

#include "thread_team.h"

#include <atomic>
#include <exception>

namespace darwin_neg {

namespace {

// What may stand in a parallel region: it catches every exception and keeps the first.
class Guarded {
public:
    explicit Guarded(const std::function<void(int32_t)> & work) : work_(work) {}

    void call(int32_t i) noexcept {
        if (failed_) {
            return;
        }
        try {
            work_(i);
        } catch (...) {
            if (!failed_.exchange(true)) {
                error_ = std::current_exception();
            }
        }
    }

    // after the region, whose end orders the write of error_ before this
    void rethrow() const {
        if (error_) {
            std::rethrow_exception(error_);
        }
    }

private:
    const std::function<void(int32_t)> & work_;
    std::atomic<bool> failed_ = false;
    std::exception_ptr error_;
};

}  // namespace

void parallel_for(int32_t n, int32_t n_threads, const std::function<void(int32_t)> & work) {
    if (n <= 1 || n_threads <= 1) {
        for (int32_t i = 0; i < n; ++i) {
            work(i);
        }
        return;
    }
    Guarded guarded(work);
#ifdef _OPENMP
    // The very team on which ggml has just computed the graph: its threads spin for a while after each graph, and
    // threads of our own would compete with them for the same cores. Always the same number of threads: libgomp ends
    // the surplus of a team that shrinks, and starts new ones for the next graph.
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
    for (int32_t i = 0; i < n; ++i) {
        guarded.call(i);
    }
#else
    // one for each thread that calls, as libgomp has it; it ends with that thread
    thread_local ThreadTeam team;
    std::atomic<int32_t> next{0};
    team.run(n_threads < n ? n_threads : n, [&]() noexcept {
        for (int32_t i = next++; i < n; i = next++) {
            guarded.call(i);
        }
    });
#endif
    guarded.rethrow();
}

}  // namespace darwin_neg
