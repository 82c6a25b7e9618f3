#include "signals.h"

#ifndef _WIN32
#include <unistd.h>

#include <chrono>
#include <csignal>
#endif

// defined in llama.cpp's tools/server/server.cpp, which has no header for it
void llama_server_terminate();

namespace darwin_neg {

#ifdef _WIN32

Signals::Signals()  = default;
Signals::~Signals() = default;

int Signals::received() const {
    return 0;
}

#else

namespace {

using namespace std::chrono_literals;

constexpr int signals[2] = {SIGINT, SIGTERM};
constexpr auto tick      = 10ms;
// Until it has, one that comes just after the server's own handlers are there would be theirs, and end it with code 0.
constexpr auto first_tick = 1ms;
// A server that answers may be a moment away from installing its handlers: it is given this time before the process
// ends.
constexpr auto patience = 500ms;

volatile std::sig_atomic_t first = 0;

[[noreturn]] void end_process(int signal) {
    _exit(128 + signal);
}

void note(int signal) {
    if (first != 0) {
        end_process(signal);  // as asked for, in case the server hangs
    }
    first = signal;
}

struct sigaction noting() {
    struct sigaction action = {};
    action.sa_handler       = note;
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    return action;
}

}  // namespace

Signals::Signals() {
    first                          = 0;
    const struct sigaction our_own = noting();
    for (int i = 0; i < 2; ++i) {
        sigaction(signals[i], &our_own, &before_[i]);
    }
    sigaction(SIGPIPE, nullptr, &pipe_before_);  // which the server ignores
    watcher_ = std::thread([this] { watch(); });
}

Signals::~Signals() {
    done_ = true;
    watcher_.join();
    for (int i = 0; i < 2; ++i) {
        sigaction(signals[i], &before_[i], nullptr);
    }
    sigaction(SIGPIPE, &pipe_before_, nullptr);
}

int Signals::received() const {
    return first;
}

// Whether the server has installed its handlers; ours are then in their place again.
bool Signals::take_over() {
    struct sigaction current = {};
    sigaction(signals[1], nullptr, &current);  // the one that it installs last
    if (current.sa_handler == note) {
        return false;
    }
    const struct sigaction our_own = noting();
    for (const int signal : signals) {
        sigaction(signal, &our_own, nullptr);
    }
    return true;
}

void Signals::watch() {
    bool can_end = false;
    for (auto waited = 0ms; !done_; std::this_thread::sleep_for(can_end || first != 0 ? tick : first_tick)) {
        can_end = can_end || take_over();
        if (first == 0) {
            continue;
        }
        if (can_end) {
            llama_server_terminate();
            return;
        }
        waited += tick;
        if (waited >= patience) {
            end_process(first);
        }
    }
}

#endif

}  // namespace darwin_neg
