#include "log_sink.h"

#include "mutex.h"

#include "llama.h"
#include "log.h"

#include <deque>
#include <iterator>
#include <mutex>
#include <new>
#include <optional>

namespace darwin_neg {

namespace {

constexpr size_t k_max_lines = 2000;
constexpr int k_error        = 40;

struct Ring {
    Mutex mutex;
    std::deque<LogLine> lines GUARDED_BY(mutex);
};

// llama_log_set takes a plain function pointer for the whole process, so the state behind it is process-wide too. It is
// never destroyed: backends may log while the process ends.
Ring & ring() {
    static Ring & instance = *new Ring;
    return instance;
}

void keep(LogLine line) {
    Ring & r = ring();
    const Lock lock(r.mutex);
    if (r.lines.size() == k_max_lines) {
        r.lines.pop_front();
    }
    r.lines.push_back(std::move(line));
}

thread_local bool thread_has_ended = false;

// The line of a thread whose end has not come yet.
class UnfinishedLine {
public:
    UnfinishedLine()                                   = default;
    UnfinishedLine(const UnfinishedLine &)             = delete;
    UnfinishedLine & operator=(const UnfinishedLine &) = delete;
    ~UnfinishedLine() {
        thread_has_ended = true;
        try {
            if (auto line = end()) {
                keep(std::move(*line));
            }
        } catch (const std::bad_alloc &) {
            return;  // one line is lost
        }
    }

    std::optional<LogLine> end() {
        if (text_.empty()) {
            return std::nullopt;
        }
        LogLine line(level_, std::move(text_));
        text_.clear();
        return line;
    }

    // Returns the lines that are complete with this message. Pieces of one line come with the same level, or as a
    // continuation.
    std::vector<LogLine> add(std::optional<int> level, const char * message) {
        std::vector<LogLine> complete;
        if (level && (*level != level_ || *level == k_error)) {
            if (auto line = end()) {
                complete.push_back(std::move(*line));
            }
        }
        level_ = level.value_or(level_);
        for (const char * c = message; *c != '\0'; ++c) {
            if (*c != '\n') {
                text_ += *c;
                continue;
            }
            complete.emplace_back(level_, std::move(text_));
            text_.clear();
        }
        return complete;
    }

private:
    std::string text_;
    int level_ = 20;
};

thread_local UnfinishedLine unfinished;
thread_local LineScope * innermost = nullptr;

// Nothing for a continuation of the message before.
std::optional<int> python_level(ggml_log_level level) {
    switch (level) {
        case GGML_LOG_LEVEL_CONT: return std::nullopt;
        case GGML_LOG_LEVEL_DEBUG: return 10;
        case GGML_LOG_LEVEL_WARN: return 30;
        case GGML_LOG_LEVEL_ERROR: return k_error;
        default: return 20;
    }
}

}  // namespace

struct LineScopes {
    static void show(const std::vector<LogLine> & lines) {
        for (const LogLine & line : lines) {
            for (const LineScope * scope = innermost; scope != nullptr; scope = scope->outer_) {
                scope->see_(line);
            }
        }
    }
};

namespace {

void on_log(ggml_log_level level, const char * text, void * /*user_data*/) {
    std::vector<LogLine> lines;
    try {
        if (thread_has_ended) {
            UnfinishedLine last;  // which keeps what has no newline
            lines = last.add(python_level(level), text);
        } else {
            lines = unfinished.add(python_level(level), text);
        }
        for (const LogLine & line : lines) {
            keep(line);
        }
    } catch (const std::bad_alloc &) {
        return;  // an exception in one of ggml's threads would end the process: better to lose a line
    }
    LineScopes::show(lines);
}

}  // namespace

void install_log_sink() {
    static std::once_flag once;
    std::call_once(once, [] {
        llama_log_set(on_log, nullptr);
        // common prints through a logger of its own, straight to the terminal; what it says reaches us as exceptions
        common_log_set_verbosity_thold(-1);
    });
}

std::vector<LogLine> drain_log() {
    std::deque<LogLine> lines;
    {
        Ring & r = ring();
        const Lock lock(r.mutex);
        lines.swap(r.lines);
    }
    return {std::make_move_iterator(lines.begin()), std::make_move_iterator(lines.end())};
}

void end_log_line() {
    if (auto line = unfinished.end()) {
        keep(*line);
        LineScopes::show({*line});
    }
}

LineScope::LineScope(std::function<void(const LogLine &)> see) : see_(std::move(see)), outer_(innermost) {
    innermost = this;
}

LineScope::~LineScope() {
    innermost = outer_;
}

ErrorLineScope::ErrorLineScope()
    : scope_([this](const LogLine & line) {
          if (line.first >= k_error) {
              lines_.push_back(line.second);
          }
      }) {}

std::vector<std::string> ErrorLineScope::lines() const {
    end_log_line();
    return lines_;
}

}  // namespace darwin_neg
