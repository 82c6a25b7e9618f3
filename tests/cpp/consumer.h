#pragma once

// Requests to an engine and their answers, for tests of the engine.

#include "engine.h"

#include "check.h"

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace darwin_neg {

using namespace std::chrono_literals;

// ThreadSanitizer makes a step of ggml's own threads, which are started for each, cost many times what it computes.
// What several threads do to a step is test-race's subject; here their number would only multiply the time.
#ifdef __SANITIZE_THREAD__
constexpr int32_t k_n_threads = 1;
#else
constexpr int32_t k_n_threads = 2;
#endif

// One consumer's view of the engine: an inbox, and the requests that it waits for.
struct Consumer {
    explicit Consumer(Engine & engine) : scheduler(*engine.scheduler()), inbox(scheduler.inbox()) {}

    Requests submit(std::vector<llama_token> tokens, const RequestParams & params) {
        return scheduler.submit({std::move(tokens)}, params, inbox);
    }

    // The next update, which must come.
    Update next() {
        const auto update = scheduler.wait(*inbox, 60s);
        CHECK(update.has_value());
        return update.value_or(Update{});
    }

    // All that is still to come of a request with notify = request.
    Update finish(const Requests & requests) {
        Update update = next();
        CHECK(update.request == requests.ids().front() && update.finished);
        return update;
    }

    Update run(std::vector<llama_token> tokens, const RequestParams & params) {
        const Requests requests = submit(std::move(tokens), params);
        return finish(requests);
    }

    Scheduler & scheduler;
    std::shared_ptr<Inbox> inbox;
};

inline RequestParams greedy_params(std::optional<int32_t> max_tokens) {
    RequestParams params;
    params.temperature = {0.0f};
    params.ignore_eos  = true;
    params.max_tokens  = max_tokens;
    return params;
}

inline bool ends_with(const SampleUpdate & sample, const char * reason) {
    return sample.finish_reason != nullptr && std::string(sample.finish_reason) == reason;
}

inline std::vector<llama_token> prompt(int n) {
    std::vector<llama_token> out = {256};
    for (int i = 0; i < n; ++i) {
        out.push_back('a' + i % 26);
    }
    return out;
}

template <typename E, typename F>
void check_throws(F && f, const char * words) {
    try {
        f();
        CHECK(!"no exception");
    } catch (const E & e) {
        CHECK(std::string(e.what()).find(words) != std::string::npos);
    }
}

}  // namespace darwin_neg
