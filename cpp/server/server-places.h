#pragma once

// A bounded queue for llama.cpp's HTTP server: how many tasks may be in flight, which is one per slot and those that
// wait.

#include <mutex>
#include <stdexcept>
#include <string>

// Answered with 503 and Retry-After.
struct server_queue_full : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct server_places {
    // n_waiting: how many tasks may wait for one of n_slots slots, -1 = no limit
    void set(int n_slots, int n_waiting) {
        const std::lock_guard<std::mutex> lock(mutex);
        this->n_slots   = n_slots;
        this->n_waiting = n_waiting;
    }

    // A request that alone is larger than slots and queue is let in when nothing else is there: it could never run
    // otherwise.
    void enter(int n) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (n_waiting >= 0 && n_inside > 0 && n_inside + n > n_slots + n_waiting) {
            throw server_queue_full("the queue is full: " + std::to_string(n_waiting) +
                                    " tasks may wait (--max-queue); try again later");
        }
        n_inside += n;
    }

    void leave(int n) {
        const std::lock_guard<std::mutex> lock(mutex);
        n_inside -= n;
    }

private:
    std::mutex mutex;
    int n_slots   = 0;
    int n_waiting = -1;
    int n_inside  = 0;
};

// The places of one request, which it gives back at its end, however that comes.
class server_ticket {
public:
    server_ticket()                                  = default;
    server_ticket(const server_ticket &)             = delete;
    server_ticket & operator=(const server_ticket &) = delete;
    ~server_ticket() { give_back(); }

    // Before the client hears of its request's end, so that its next one finds the place.
    void give_back() {
        if (places) {
            places->leave(n);
            places = nullptr;
        }
    }

    // Throws server_queue_full.
    template <typename Tasks>
    void take(server_places & from, const Tasks & tasks) {
        int wanted = 0;
        for (const auto & task : tasks) {
            wanted += 1 + (int)task.child_tasks.size();
        }
        from.enter(wanted);
        places = &from;
        n      = wanted;
    }

private:
    server_places * places = nullptr;
    int n                  = 0;
};
