#include "log_sink.h"

#include "llama.h"
#include "log.h"

#include <deque>
#include <mutex>

namespace darwin_neg {

namespace {

constexpr size_t k_max_lines = 2000;

struct Ring {
    std::mutex mutex;
    std::deque<LogLine> lines;
    std::string partial;  // text of a line whose end has not come yet
    int partial_level = 20;
};

// llama_log_set takes a plain function pointer for the whole process, so the state behind it is process-wide too.
Ring & ring() {
    static Ring instance;
    return instance;
}

thread_local const std::function<void(const LogLine &)> * observer = nullptr;

int python_level(ggml_log_level level, int previous) {
    switch (level) {
        case GGML_LOG_LEVEL_DEBUG: return 10;
        case GGML_LOG_LEVEL_INFO: return 20;
        case GGML_LOG_LEVEL_WARN: return 30;
        case GGML_LOG_LEVEL_ERROR: return 40;
        case GGML_LOG_LEVEL_CONT: return previous;
        default: return 20;
    }
}

void on_log(ggml_log_level level, const char * text, void * /*user_data*/) {
    Ring & r = ring();
    const std::lock_guard<std::mutex> lock(r.mutex);
    r.partial_level = python_level(level, r.partial_level);
    for (const char * c = text; *c != '\0'; ++c) {
        if (*c != '\n') {
            r.partial += *c;
            continue;
        }
        const LogLine line(r.partial_level, std::move(r.partial));
        r.partial.clear();
        if (r.lines.size() == k_max_lines) {
            r.lines.pop_front();
        }
        r.lines.push_back(line);
        if (observer != nullptr) {
            (*observer)(line);
        }
    }
}

}  // namespace

void install_log_sink() {
    llama_log_set(on_log, nullptr);
    // common prints through a logger of its own, straight to the terminal; what it says reaches us as exceptions
    common_log_set_verbosity_thold(-1);
}

std::vector<LogLine> drain_log() {
    Ring & r = ring();
    const std::lock_guard<std::mutex> lock(r.mutex);
    std::vector<LogLine> out(std::make_move_iterator(r.lines.begin()), std::make_move_iterator(r.lines.end()));
    r.lines.clear();
    return out;
}

LineScope::LineScope(std::function<void(const LogLine &)> see) : see_(std::move(see)) {
    observer = &see_;
}

LineScope::~LineScope() {
    observer = nullptr;
}

ErrorLineScope::ErrorLineScope()
    : scope_([this](const LogLine & line) {
          if (line.first >= 40) {
              lines_.push_back(line.second);
          }
      }) {}

}  // namespace darwin_neg
