#pragma once

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

// Remembers the error lines that the calling thread logs during its lifetime: llama.cpp reports why a file does not load
// only in the log. Not nestable.
class ErrorLineScope {
public:
    ErrorLineScope();
    ~ErrorLineScope();
    ErrorLineScope(const ErrorLineScope &)             = delete;
    ErrorLineScope & operator=(const ErrorLineScope &) = delete;

    std::vector<std::string> lines() const;
};

}  // namespace darwin_neg
