#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <thread>

namespace darwin_neg {

// Python's lock is free while this lives. A daemon thread that comes back when the interpreter is ending is parked for
// good, as Python 3.14 does by itself: older ones end the thread by unwinding it, which C++ answers with
// std::terminate.
class WithoutGil {
public:
    WithoutGil() : state_(PyEval_SaveThread()) {}
    ~WithoutGil() {
        while (is_finalizing()) {
            std::this_thread::sleep_for(std::chrono::hours(1));
        }
        PyEval_RestoreThread(state_);
    }
    WithoutGil(const WithoutGil &)             = delete;
    WithoutGil & operator=(const WithoutGil &) = delete;

private:
    static bool is_finalizing() {
#if PY_VERSION_HEX >= 0x030d0000
        return Py_IsFinalizing() != 0;
#else
        return _Py_IsFinalizing() != 0;
#endif
    }

    PyThreadState * state_;
};

// Runs work(slice) without Python's lock until it returns true. On the main thread, signal handlers run every
// `k_signal_seconds`, so that Ctrl-C comes through; one that raises ends the wait by throwing. Other threads never run
// handlers and wait in one piece.
constexpr double k_signal_seconds = 0.05;

inline bool on_main_thread() {
    const pybind11::module_ threading = pybind11::module_::import("threading");
    return threading.attr("get_ident")().equal(threading.attr("main_thread")().attr("ident"));
}

template <typename Work>
bool wait_with_signals(double timeout, Work && work) {
    using Clock       = std::chrono::steady_clock;
    const bool slices = on_main_thread();
    const auto deadline =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(timeout));
    while (true) {
        bool done       = false;
        const auto left = std::chrono::duration<double>(deadline - Clock::now()).count();
        {
            const WithoutGil unlocked;
            done = work(slices && left > k_signal_seconds ? k_signal_seconds : left);
        }
        if (done) {
            return true;
        }
        if (PyErr_CheckSignals() != 0) {
            throw pybind11::error_already_set();
        }
        if (Clock::now() >= deadline) {
            return false;
        }
    }
}

}  // namespace darwin_neg
