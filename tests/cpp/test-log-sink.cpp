// Log lines that arrive in pieces and from several threads at once.

#include "log_sink.h"

#include "check.h"

#include "llama.h"

#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace darwin_neg;

namespace {

// As llama.cpp and ggml do it, through the callback that is installed.
void log(ggml_log_level level, const std::string & text) {
    ggml_log_callback callback = nullptr;
    void * user_data           = nullptr;
    llama_log_get(&callback, &user_data);
    callback(level, text.c_str(), user_data);
}

void lines_of_different_threads_never_mix() {
    constexpr int k_threads = 6;
    constexpr int k_lines   = 300;
    drain_log();
    std::vector<std::vector<std::string>> seen(k_threads);
    std::vector<std::thread> threads;
    for (int t = 0; t < k_threads; ++t) {
        threads.emplace_back([t, &seen] {
            const LineScope scope([t, &seen](const LogLine & line) { seen[t].push_back(line.second); });
            const std::string name(1, static_cast<char>('a' + t));
            for (int i = 0; i < k_lines; ++i) {
                log(GGML_LOG_LEVEL_INFO, name + " begins");
                std::this_thread::yield();
                log(GGML_LOG_LEVEL_CONT, ", " + name + " continues");
                std::this_thread::yield();
                log(GGML_LOG_LEVEL_CONT, ", " + name + " ends " + std::to_string(i) + "\n");
            }
        });
    }
    for (auto & thread : threads) {
        thread.join();
    }
    const auto expected = [](int t, int i) {
        const std::string name(1, static_cast<char>('a' + t));
        return name + " begins, " + name + " continues, " + name + " ends " + std::to_string(i);
    };
    std::map<std::string, int> drained;
    for (const auto & [level, text] : drain_log()) {
        CHECK(level == 20);
        ++drained[text];
    }
    CHECK(drained.size() == static_cast<size_t>(k_threads) * k_lines);
    for (int t = 0; t < k_threads; ++t) {
        CHECK(seen[t].size() == k_lines);
        for (int i = 0; i < k_lines && i < static_cast<int>(seen[t].size()); ++i) {
            CHECK(seen[t][i] == expected(t, i));
            CHECK(drained.count(expected(t, i)) == 1);
        }
    }
}

void a_level_belongs_to_its_thread() {
    drain_log();
    log(GGML_LOG_LEVEL_DEBUG, "half a line");
    std::thread([] { log(GGML_LOG_LEVEL_ERROR, "an error elsewhere\n"); }).join();
    log(GGML_LOG_LEVEL_CONT, ", whole\n");
    CHECK((drain_log() == std::vector<LogLine>{{40, "an error elsewhere"}, {10, "half a line, whole"}}));
}

void a_line_without_newline_is_ended_by_what_follows() {
    drain_log();
    log(GGML_LOG_LEVEL_INFO, "dots ");
    log(GGML_LOG_LEVEL_CONT, "...");
    log(GGML_LOG_LEVEL_WARN, "a warning\n");
    CHECK((drain_log() == std::vector<LogLine>{{20, "dots ..."}, {30, "a warning"}}));
    // one line in two messages of one level, as llama.cpp's quantizer does it
    log(GGML_LOG_LEVEL_INFO, "size = ");
    CHECK(drain_log().empty());
    log(GGML_LOG_LEVEL_INFO, "3 MiB\nnext\n");
    CHECK((drain_log() == std::vector<LogLine>{{20, "size = 3 MiB"}, {20, "next"}}));
    log(GGML_LOG_LEVEL_ERROR, "first error");
    log(GGML_LOG_LEVEL_ERROR, "second error");
    end_log_line();
    end_log_line();
    CHECK((drain_log() == std::vector<LogLine>{{40, "first error"}, {40, "second error"}}));
    std::thread([] { log(GGML_LOG_LEVEL_INFO, "last words"); }).join();
    CHECK((drain_log() == std::vector<LogLine>{{20, "last words"}}));
}

void an_error_without_newline_is_a_cause() {
    const ErrorLineScope errors;
    log(GGML_LOG_LEVEL_WARN, "no cause\n");
    log(GGML_LOG_LEVEL_ERROR, "left recursion at index 0");
    CHECK(errors.lines() == std::vector<std::string>{"left recursion at index 0"});
    CHECK(errors.lines().size() == 1);
}

void scopes_nest() {
    std::vector<std::string> seen;
    const auto see = [&seen](const std::string & who) {
        return [&seen, who](const LogLine & line) { seen.push_back(who + ": " + line.second); };
    };
    {
        const LineScope outer(see("outer"));
        {
            const LineScope inner(see("inner"));
            const ErrorLineScope errors;
            log(GGML_LOG_LEVEL_ERROR, "1\n");
            CHECK(errors.lines() == std::vector<std::string>{"1"});
        }
        log(GGML_LOG_LEVEL_INFO, "2\n");
    }
    log(GGML_LOG_LEVEL_INFO, "3\n");
    CHECK((seen == std::vector<std::string>{"inner: 1", "outer: 1", "outer: 2"}));
}

void an_observer_may_throw() {
    const LineScope outer([](const LogLine & line) {
        if (line.second == "stop") {
            throw std::runtime_error("stopped");
        }
    });
    bool stopped = false;
    try {
        log(GGML_LOG_LEVEL_INFO, "stop\n");
    } catch (const std::runtime_error &) {
        stopped = true;
    }
    CHECK(stopped);
    drain_log();  // no lock is left behind
    log(GGML_LOG_LEVEL_INFO, "continues\n");
    CHECK((drain_log() == std::vector<LogLine>{{20, "continues"}}));
}

void the_oldest_lines_are_dropped() {
    drain_log();
    for (int i = 0; i < 2500; ++i) {
        log(GGML_LOG_LEVEL_INFO, std::to_string(i) + "\n");
    }
    const auto lines = drain_log();
    CHECK(lines.size() == 2000 && lines.front().second == "500" && lines.back().second == "2499");
}

}  // namespace

int main() {
    install_log_sink();
    lines_of_different_threads_never_mix();
    a_level_belongs_to_its_thread();
    a_line_without_newline_is_ended_by_what_follows();
    an_error_without_newline_is_a_cause();
    scopes_nest();
    an_observer_may_throw();
    the_oldest_lines_are_dropped();
    return check_result("log-sink");
}
