#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace darwin_neg {

// llama.cpp logs through one process-wide callback that any of its threads may call. The lines are kept in a bounded ring
// (oldest dropped first) until somebody drains it; nothing is ever printed and no Python lock is taken from a worker thread.

// Levels are those of Python's `logging`: 10 debug, 20 info, 30 warning, 40 error.
using LogLine = std::pair<int, std::string>;

// Redirects the logs of ggml, llama and common into the ring. Safe to call again.
void install_log_sink();

// Takes every complete line out of the ring.
std::vector<LogLine> drain_log();

// Shows every complete line that the calling thread logs during the scope's lifetime to `see`, which must not log. Not nestable.
class LineScope {
public:
    explicit LineScope(std::function<void(const LogLine &)> see);
    ~LineScope();
    LineScope(const LineScope &)             = delete;
    LineScope & operator=(const LineScope &) = delete;

private:
    std::function<void(const LogLine &)> see_;
};

// Remembers the error lines that the calling thread logs during its lifetime: llama.cpp reports why a file does not load
// only in the log. Not nestable.
class ErrorLineScope {
public:
    ErrorLineScope();

    std::vector<std::string> lines() const { return lines_; }

private:
    std::vector<std::string> lines_;
    LineScope scope_;
};

}  // namespace darwin_neg
