#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace darwin_neg {

// llama.cpp logs through one process-wide callback that any of its threads may call. The lines are kept in a bounded
// ring (oldest dropped first) until somebody drains it; nothing is ever printed and no Python lock is taken from a
// worker thread.
//
// A line may arrive in pieces. It is put together per thread, so that lines of different threads never mix. It ends
// with a newline, with a message of another level or an error (some messages lack their newline), or with its thread.

// Levels are those of Python's `logging`: 10 debug, 20 info, 30 warning, 40 error.
using LogLine = std::pair<int, std::string>;

// Redirects the logs of ggml, llama and common into the ring. Calls after the first do nothing.
void install_log_sink();

// Takes every complete line out of the ring.
std::vector<LogLine> drain_log();

// Ends the calling thread's unfinished line, if there is one.
void end_log_line();

// Shows every complete line that the calling thread logs during the scope's lifetime to `see`, which must not log. An
// exception from `see` leaves through the llama.cpp function that logs. Scopes may be nested: the inner one sees a line
// first. A scope must end on the thread that began it.
class LineScope {
public:
    explicit LineScope(std::function<void(const LogLine &)> see);
    ~LineScope();
    LineScope(const LineScope &)             = delete;
    LineScope & operator=(const LineScope &) = delete;

private:
    friend struct LineScopes;
    std::function<void(const LogLine &)> see_;
    LineScope * outer_;
};

// Remembers the error lines that the calling thread logs during its lifetime: llama.cpp reports why a file does not
// load only in the log.
class ErrorLineScope {
public:
    ErrorLineScope();

    // an unfinished line counts as well
    std::vector<std::string> lines() const;

private:
    mutable std::vector<std::string> lines_;  // grows while the scope is const for its owner
    LineScope scope_;
};

}  // namespace darwin_neg
