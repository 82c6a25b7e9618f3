// Work shared out among threads: every item once, exceptions, threads that are kept and threads that cannot be had.

#include "parallel.h"

#include "check.h"
#include "thread_team.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

using namespace darwin_neg;

namespace {

void every_item_is_worked_on_once() {
    for (const int threads : {1, 2, 7}) {
        for (const int n : {0, 1, 2, 5, 100}) {
            std::vector<int> calls(n, 0);
            parallel_for(n, threads, [&](int32_t i) { ++calls[i]; });
            CHECK(std::all_of(calls.begin(), calls.end(), [](int c) { return c == 1; }));
        }
    }
}

// The items wait for each other, so that they end only if they are worked on at the same time.
void items_are_worked_on_at_the_same_time() {
    std::mutex mutex;
    std::condition_variable changed;
    int arrived = 0;
    bool met    = true;
    parallel_for(3, 3, [&](int32_t) {
        std::unique_lock<std::mutex> lock(mutex);
        ++arrived;
        changed.notify_all();
        if (!changed.wait_for(lock, std::chrono::seconds(30), [&] { return arrived == 3; })) {
            met = false;
        }
    });
    CHECK(met);
}

void an_exception_reaches_the_caller() {
    for (const int threads : {1, 2, 7}) {
        for (int round = 0; round < 200; ++round) {
            std::atomic<int> calls = 0;
            std::string message;
            try {
                parallel_for(100, threads, [&](int32_t i) {
                    ++calls;
                    if (i % 10 == 5) {
                        throw std::runtime_error("item " + std::to_string(i));
                    }
                });
            } catch (const std::runtime_error & e) {
                message = e.what();
            }
            CHECK(message.rfind("item ", 0) == 0 && message.back() == '5');
            CHECK(calls >= 1 && calls <= 100);
        }
    }
    // what is not a std::exception as well
    bool caught = false;
    try {
        parallel_for(2, 2, [](int32_t) { throw 1; });
    } catch (int) {
        caught = true;
    }
    CHECK(caught);
    // and the next call works as if nothing had happened
    every_item_is_worked_on_once();
}

void several_threads_may_call() {
    std::vector<std::thread> callers;
    std::atomic<int> calls = 0;
    for (int t = 0; t < 4; ++t) {
        callers.emplace_back([&calls] {
            for (int round = 0; round < 200; ++round) {
                parallel_for(5, 3, [&calls](int32_t) { ++calls; });
            }
        });
    }
    for (std::thread & caller : callers) {
        caller.join();
    }
    CHECK(calls == 4 * 200 * 5);
}

void a_team_keeps_its_threads() {
    int started = 0;
    ThreadTeam team([&started](std::function<void()> f) {
        ++started;
        return std::thread(std::move(f));
    });
    std::mutex mutex;
    std::set<std::thread::id> ids;
    for (int round = 0; round < 500; ++round) {
        std::atomic<int> next = 0;
        std::atomic<int> sum  = 0;
        team.run(1 + round % 4, [&] {
            {
                const std::lock_guard<std::mutex> lock(mutex);
                ids.insert(std::this_thread::get_id());
            }
            for (int i = next++; i < 20; i = next++) {
                sum += i;
            }
        });
        CHECK(sum == 190);
    }
    CHECK(started == 3);
    CHECK(ids.size() <= 4);
}

// The system refuses a thread: the work is done by those there are.
void a_thread_that_cannot_be_started_is_done_without() {
    for (const int limit : {0, 1}) {
        int started = 0;
        ThreadTeam team([&started, limit](std::function<void()> f) {
            if (started == limit) {
                throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again));
            }
            ++started;
            return std::thread(std::move(f));
        });
        for (int round = 0; round < 10; ++round) {
            std::atomic<int> next = 0;
            std::vector<int> calls(50, 0);
            team.run(8, [&] {
                for (int i = next++; i < 50; i = next++) {
                    ++calls[i];
                }
            });
            CHECK(std::all_of(calls.begin(), calls.end(), [](int c) { return c == 1; }));
        }
        CHECK(started == limit);
    }
}

}  // namespace

int main() {
    every_item_is_worked_on_once();
    items_are_worked_on_at_the_same_time();
    an_exception_reaches_the_caller();
    several_threads_may_call();
    a_team_keeps_its_threads();
    a_thread_that_cannot_be_started_is_done_without();
    return check_result("parallel");
}
