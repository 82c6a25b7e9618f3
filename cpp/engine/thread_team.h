#pragma once

#include "mutex.h"

#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace darwin_neg {

// Threads that sleep between calls of run(). One thread owns the team and calls it.
class ThreadTeam {
public:
    // Starts a thread that executes the function; tests pass one that fails.
    using StartThread = std::function<std::thread(std::function<void()>)>;

    ThreadTeam();
    explicit ThreadTeam(StartThread start);
    ~ThreadTeam();
    ThreadTeam(const ThreadTeam &)             = delete;
    ThreadTeam & operator=(const ThreadTeam &) = delete;

    // Executes `work` on the calling thread and at the same time on up to n_threads - 1 others, and returns when all
    // have returned. A thread that is late is not waited for, and one that the system refuses to start is done without:
    // `work` must share out what there is to do, and must not throw.
    void run(int32_t n_threads, const std::function<void()> & work);

private:
    void grow(size_t n_helpers);
    void help();

    const StartThread start_;
    std::vector<std::thread> helpers_;  // the owner's

    Mutex mutex_;
    CondVar opened_;  // for the helpers: work, or the end
    CondVar left_;    // for run()
    const std::function<void()> * work_ GUARDED_BY(mutex_) = nullptr;
    int32_t n_open_ GUARDED_BY(mutex_)                     = 0;  // places that helpers may still take
    int32_t n_busy_ GUARDED_BY(mutex_)                     = 0;
    bool ending_ GUARDED_BY(mutex_)                        = false;
};

}  // namespace darwin_neg
