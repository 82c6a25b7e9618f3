#pragma once

#include <csignal>

#ifndef _WIN32
#include <atomic>
#include <thread>
#endif

namespace darwin_neg {

// SIGINT and SIGTERM while llama.cpp's server runs in this process: the first ends the server, the second the process.
//
// The server installs handlers of its own once the model is loaded. They take locks, which a handler must not do, do
// not say which signal it was, and only count: the second server of a process would take the first signal for its
// second. So the handlers here only note the signal, and a thread of this class ends the server. Before the server can
// end, while it loads the model, it ends the process. The destructor puts back the handlers that were there before. On
// Windows it does nothing: the server handles Ctrl-C there.
class Signals {
public:
    Signals();
    ~Signals();
    Signals(const Signals &)             = delete;
    Signals & operator=(const Signals &) = delete;

    // The signal that ended the server, 0 for none.
    int received() const;

#ifndef _WIN32
private:
    void watch();
    bool take_over();

    struct sigaction before_[2]   = {};
    struct sigaction pipe_before_ = {};
    std::atomic<bool> done_{false};
    std::thread watcher_;
#endif
};

}  // namespace darwin_neg
