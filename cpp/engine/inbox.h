#pragma once

#include "mutex.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace darwin_neg {

class Scheduler;

// Where a consumer hears of its requests: Scheduler::inbox() makes one, submit() ties requests to it, Scheduler::wait()
// waits for news. Outlives the scheduler's close(). Everything in it is guarded by the scheduler's mutex.
class Inbox {
private:
    friend class Scheduler;

    std::vector<int64_t> ready;  // requests with news, in the order in which it came, each once
    size_t n_requests = 0;       // not released; `ready` has room for all of them, so that telling never allocates
    bool closed       = false;
    CondVar news;
};

// Requests that somebody wants the answers of. Releases them at its end: what still runs is cancelled, what was not
// fetched is forgotten.
class Requests {
public:
    Requests(std::shared_ptr<Scheduler> scheduler, std::vector<int64_t> ids)
        : scheduler_(std::move(scheduler)), ids_(std::move(ids)) {}
    ~Requests();
    Requests(Requests && other) noexcept : scheduler_(std::move(other.scheduler_)), ids_(std::move(other.ids_)) {
        other.ids_.clear();
    }
    Requests & operator=(Requests &&)      = delete;
    Requests(const Requests &)             = delete;
    Requests & operator=(const Requests &) = delete;

    const std::vector<int64_t> & ids() const { return ids_; }

    // Stops generating; the answers so far still come, with finish_reason "cancelled". Other ids than these are
    // ignored.
    void cancel(int64_t id) const;
    void cancel() const;

    // Forgets a request whose answer has come or is no longer wanted. Safe to call again.
    void release(int64_t id) const noexcept;
    void release() const noexcept;

private:
    bool has(int64_t id) const;

    std::shared_ptr<Scheduler> scheduler_;
    std::vector<int64_t> ids_;
};

}  // namespace darwin_neg
