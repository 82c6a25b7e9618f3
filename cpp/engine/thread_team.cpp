#include "thread_team.h"

#include <algorithm>
#include <exception>
#include <utility>

namespace darwin_neg {

ThreadTeam::ThreadTeam() : ThreadTeam([](std::function<void()> f) { return std::thread(std::move(f)); }) {}

ThreadTeam::ThreadTeam(StartThread start) : start_(std::move(start)) {}

ThreadTeam::~ThreadTeam() {
    {
        const Lock lock(mutex_);
        ending_ = true;
    }
    opened_.notify_all();
    for (std::thread & helper : helpers_) {
        helper.join();
    }
}

void ThreadTeam::grow(size_t n_helpers) {
    try {
        helpers_.reserve(n_helpers);
        while (helpers_.size() < n_helpers) {
            helpers_.push_back(start_([this] { help(); }));
        }
    } catch (const std::exception &) {
        return;  // no memory or too many threads in the system: fewer do the same work
    }
}

void ThreadTeam::run(int32_t n_threads, const std::function<void()> & work) {
    const int32_t wanted = std::max(n_threads - 1, 0);
    grow(static_cast<size_t>(wanted));
    {
        const Lock lock(mutex_);
        work_   = &work;
        n_open_ = std::min(wanted, static_cast<int32_t>(helpers_.size()));
    }
    opened_.notify_all();
    work();
    Lock lock(mutex_);
    n_open_ = 0;
    while (n_busy_ > 0) {
        left_.wait(lock);
    }
}

void ThreadTeam::help() {
    Lock lock(mutex_);
    while (true) {
        while (!ending_ && n_open_ == 0) {
            opened_.wait(lock);
        }
        if (ending_) {
            return;
        }
        const std::function<void()> & work = *work_;
        --n_open_;
        ++n_busy_;
        lock.unlock();
        work();
        lock.lock();
        if (--n_busy_ == 0) {
            left_.notify_one();
        }
    }
}

}  // namespace darwin_neg
