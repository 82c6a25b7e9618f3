#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

// A mutex whose rules clang checks: declare what it guards with GUARDED_BY, and what a function expects of it with
// REQUIRES (the caller holds it) or EXCLUDES (the caller must not). `make tidy` turns every violation into an error.
//
// C++17 has no attribute for this that every compiler takes, so these are macros, the only ones in our own headers.
// They are empty for compilers other than clang.
#if defined(__clang__)
#define DARWIN_NEG_ATTRIBUTE(x) __attribute__((x))
#else
#define DARWIN_NEG_ATTRIBUTE(x)
#endif
#define GUARDED_BY(mutex) DARWIN_NEG_ATTRIBUTE(guarded_by(mutex))
#define PT_GUARDED_BY(mutex) DARWIN_NEG_ATTRIBUTE(pt_guarded_by(mutex))  // guards what the member points to
#define REQUIRES(...) DARWIN_NEG_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) DARWIN_NEG_ATTRIBUTE(locks_excluded(__VA_ARGS__))
#define ACQUIRE(...) DARWIN_NEG_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define RELEASE(...) DARWIN_NEG_ATTRIBUTE(release_capability(__VA_ARGS__))

namespace darwin_neg {

// Taken with a Lock only.
class DARWIN_NEG_ATTRIBUTE(capability("mutex")) Mutex {
private:
    friend class Lock;
    std::mutex mutex_;
};

// Holds the mutex from its construction to its end, except between unlock() and lock().
class DARWIN_NEG_ATTRIBUTE(scoped_lockable) Lock {
public:
    explicit Lock(Mutex & mutex) ACQUIRE(mutex) : lock_(mutex.mutex_) {}
    ~Lock() RELEASE()              = default;
    Lock(const Lock &)             = delete;
    Lock & operator=(const Lock &) = delete;

    void unlock() RELEASE() { lock_.unlock(); }
    void lock() ACQUIRE() { lock_.lock(); }

private:
    friend class CondVar;
    std::unique_lock<std::mutex> lock_;
};

// Waits may end early. Callers loop over their condition, which the checker sees, whereas it looks into no lambda:
//     while (!ready_) {
//         changed_.wait(lock);
//     }
class CondVar {
public:
    void notify_one() noexcept { condition_.notify_one(); }
    void notify_all() noexcept { condition_.notify_all(); }

    void wait(Lock & lock) { condition_.wait(lock.lock_); }

    // false: the time is over
    template <typename Rep, typename Period>
    bool wait_for(Lock & lock, std::chrono::duration<Rep, Period> timeout) {
        return condition_.wait_for(lock.lock_, timeout) == std::cv_status::no_timeout;
    }
    template <typename Clock, typename Duration>
    bool wait_until(Lock & lock, std::chrono::time_point<Clock, Duration> deadline) {
        return condition_.wait_until(lock.lock_, deadline) == std::cv_status::no_timeout;
    }

private:
    std::condition_variable condition_;
};

}  // namespace darwin_neg
