// What threads do to one engine at once: submit, wait (two on one inbox), cancel, release, score, read statistics and the log, close.
// Meant for `make race`, where ThreadSanitizer watches; everywhere else it checks that no answer is lost, given twice or changed.

#include "engine.h"

#include "check.h"
#include "errors.h"
#include "log_sink.h"
#include "tiny-model.h"

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

using namespace darwin_neg;
using namespace std::chrono_literals;

namespace {

std::vector<llama_token> prompt(int n) {
    std::vector<llama_token> out = {256};
    for (int i = 0; i < n; ++i) {
        out.push_back('a' + (i * 5 + n) % 26);
    }
    return out;
}

RequestParams greedy(int max_tokens, Notify notify) {
    RequestParams params;
    params.temperature = {0.0f};
    params.max_tokens  = max_tokens;
    params.ignore_eos  = true;
    params.notify      = notify;
    return params;
}

// What came of one request; several threads may hear of it.
struct Answer {
    int expected_samples = 0;
    int expected_tokens  = 0;
    bool may_be_cut      = false;  // somebody cancels it
    int n_finished       = 0;
    std::map<int, size_t> tokens;  // by sample
    std::map<int, std::string> reasons;
};

class Answers {
public:
    void expect(int64_t id, int samples, int tokens, bool may_be_cut) {
        const std::lock_guard<std::mutex> lock(mutex_);
        Answer & answer         = answers_[id];
        answer.expected_samples = samples;
        answer.expected_tokens  = tokens;
        answer.may_be_cut       = may_be_cut;
    }

    void add(const Update & update) {
        const std::lock_guard<std::mutex> lock(mutex_);
        Answer & answer = answers_[update.request];
        for (const SampleUpdate & sample : update.samples) {
            CHECK(sample.pieces.size() == sample.tokens.size() && sample.entropy.size() == sample.tokens.size());
            answer.tokens[sample.index] += sample.tokens.size();
            if (sample.finish_reason != nullptr) {
                CHECK(answer.reasons.count(sample.index) == 0);
                answer.reasons[sample.index] = sample.finish_reason;
            }
        }
        answer.n_finished += update.finished ? 1 : 0;
    }

    size_t n_finished() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        size_t n = 0;
        for (const auto & [id, answer] : answers_) {
            n += answer.n_finished > 0 ? 1 : 0;
        }
        return n;
    }

    void compare() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        for (const auto & [id, answer] : answers_) {
            CHECK(answer.n_finished == 1);
            CHECK(static_cast<int>(answer.reasons.size()) == answer.expected_samples);
            for (const auto & [index, reason] : answer.reasons) {
                CHECK(reason == "length" || (answer.may_be_cut && reason == "cancelled"));
                const auto n = static_cast<int>(answer.tokens.at(index));
                CHECK(reason == "length" ? n == answer.expected_tokens : n <= answer.expected_tokens);
            }
        }
    }

private:
    mutable std::mutex mutex_;
    std::map<int64_t, Answer> answers_;
};

// The tokens of one greedy sample, waited for alone.
std::vector<llama_token> generate(Engine & engine, int n_prompt, int max_tokens, Notify notify) {
    Scheduler & scheduler   = *engine.scheduler();
    const auto inbox        = scheduler.inbox();
    const Requests requests = scheduler.submit({prompt(n_prompt)}, greedy(max_tokens, notify), inbox);
    std::vector<llama_token> tokens;
    while (true) {
        if (const auto update = scheduler.wait(*inbox, 1s)) {
            const auto & fresh = update->samples.empty() ? std::vector<llama_token>{} : update->samples[0].tokens;
            tokens.insert(tokens.end(), fresh.begin(), fresh.end());
            if (update->finished) {
                return tokens;
            }
        }
    }
}

void log_lines(const std::string & who) {
    ggml_log_callback callback = nullptr;
    void * user_data           = nullptr;
    llama_log_get(&callback, &user_data);
    for (int i = 0; i < 200; ++i) {
        callback(GGML_LOG_LEVEL_INFO, (who + " begins").c_str(), user_data);
        std::this_thread::yield();
        callback(GGML_LOG_LEVEL_CONT, (", " + who + " ends\n").c_str(), user_data);
    }
}

// Many requests of one inbox, two threads that wait on it, some requests cancelled.
void two_wait_on_one_inbox(Engine & engine, unsigned seed) {
    constexpr int k_requests = 24;
    Scheduler & scheduler    = *engine.scheduler();
    const auto inbox         = scheduler.inbox();
    Answers answers;
    std::vector<Requests> requests;
    std::mt19937 rng(seed);
    std::atomic<bool> stop = false;
    const auto wait        = [&] {
        while (!stop) {
            if (const auto update = scheduler.wait(*inbox, 20ms)) {
                answers.add(*update);
            }
        }
    };
    std::thread first(wait);
    std::thread second(wait);
    for (int i = 0; i < k_requests; ++i) {
        const Notify notify  = i % 3 == 0 ? Notify::token : i % 3 == 1 ? Notify::sample : Notify::request;
        RequestParams params = greedy(4 + static_cast<int>(rng() % 12), notify);
        params.n             = 1 + static_cast<int>(rng() % 3);
        requests.push_back(scheduler.submit({prompt(1 + static_cast<int>(rng() % 40))}, params, inbox));
        const bool cut = i % 5 == 0;
        answers.expect(requests.back().ids().front(), params.n, *params.max_tokens, cut);
        if (cut) {
            requests.back().cancel();
        }
    }
    while (answers.n_finished() < k_requests) {
        std::this_thread::sleep_for(1ms);
    }
    stop = true;
    first.join();
    second.join();
    answers.compare();
    requests.clear();
}

// Requests that nobody waits for to the end.
void requests_are_dropped(Engine & engine) {
    Scheduler & scheduler = *engine.scheduler();
    for (int i = 0; i < 30; ++i) {
        const auto inbox        = scheduler.inbox();
        const Requests requests = scheduler.submit({prompt(20), prompt(5)}, greedy(100, Notify::token), inbox);
        if (i % 2 == 0) {
            scheduler.wait(*inbox, 5ms);
        }
        if (i % 3 == 0) {
            requests.cancel(requests.ids().back());
        }
    }
}

void texts_are_scored(Engine & engine) {
    ScoreParts parts;
    parts.hidden           = true;
    parts.n_top            = 3;
    std::atomic<bool> stop = false;
    const Scores alone     = engine.scorer().score({prompt(30)}, parts, stop);
    for (int i = 0; i < 5; ++i) {
        const Scores scores = engine.scorer().score({prompt(30), prompt(7)}, parts, stop);
        CHECK(scores.n_tokens == 39 && scores.hidden.size() == scores.true_entropy.size() * static_cast<size_t>(scores.n_embd));
        for (size_t k = 0; k < alone.true_entropy.size(); ++k) {
            CHECK(std::fabs(scores.true_entropy[k] - alone.true_entropy[k]) < 1e-3f);
        }
    }
}

void everything_at_once(const ModelParams & params) {
    Engine engine(params, "");
    const auto expected    = generate(engine, 12, 15, Notify::request);
    std::atomic<bool> done = false;
    std::set<std::string> lines;
    std::thread reader([&] {
        while (!done) {
            CHECK(engine.scheduler()->stats().n_seq_used <= 9);
            for (const auto & [level, text] : drain_log()) {
                lines.insert(text);
            }
            std::this_thread::sleep_for(1ms);
        }
    });
    std::vector<std::thread> threads;
    threads.emplace_back([&] { two_wait_on_one_inbox(engine, 1); });
    threads.emplace_back([&] { two_wait_on_one_inbox(engine, 2); });
    threads.emplace_back([&] { requests_are_dropped(engine); });
    threads.emplace_back([&] { texts_are_scored(engine); });
    threads.emplace_back([&] { texts_are_scored(engine); });
    threads.emplace_back([&] {
        for (int i = 0; i < 10; ++i) {
            CHECK(generate(engine, 12, 15, i % 2 ? Notify::token : Notify::sample) == expected);
        }
    });
    threads.emplace_back([] { log_lines("one"); });
    threads.emplace_back([] { log_lines("two"); });
    for (std::thread & thread : threads) {
        thread.join();
    }
    done = true;
    reader.join();
    for (const std::string & line : lines) {
        CHECK(line.find("begins") == std::string::npos || line == "one begins, one ends" || line == "two begins, two ends");
    }
    CHECK(lines.count("one begins, one ends") == 1 && lines.count("two begins, two ends") == 1);
    // what was dropped ends with the step that was running
    for (int i = 0; i < 1000 && engine.scheduler()->stats().n_seq_used > 0; ++i) {
        std::this_thread::sleep_for(10ms);
    }
    CHECK(engine.scheduler()->stats().n_seq_used == 0);
}

// Threads wait, submit and score while two others close the engine.
void closing_while_others_wait(const ModelParams & params) {
    for (int round = 0; round < 4; ++round) {
        Engine engine(params, "");
        Scheduler & scheduler = *engine.scheduler();
        const auto inbox      = scheduler.inbox();
        std::vector<Requests> requests;
        for (int i = 0; i < 12; ++i) {
            requests.push_back(scheduler.submit({prompt(10 + i)}, greedy(200, i % 2 ? Notify::token : Notify::request), inbox));
        }
        std::atomic<int> finished = 0;
        const auto wait           = [&] {
            while (finished < 12) {
                const auto update = scheduler.wait(*inbox, 50ms);
                if (update && update->finished) {
                    ++finished;
                    for (const SampleUpdate & sample : update->samples) {
                        CHECK(sample.finish_reason != nullptr);
                    }
                }
            }
        };
        std::vector<std::thread> threads;
        threads.emplace_back(wait);
        threads.emplace_back(wait);
        threads.emplace_back([&] {
            std::atomic<bool> stop = false;
            try {
                while (true) {
                    engine.scorer().score({prompt(40)}, {}, stop);
                }
            } catch (const Error &) {
                return;  // closed
            }
        });
        threads.emplace_back([&] {
            try {
                while (true) {
                    const Requests more = scheduler.submit({prompt(3)}, greedy(2, Notify::request), scheduler.inbox());
                    std::this_thread::sleep_for(1ms);
                }
            } catch (const Error &) {
                return;  // closed
            }
        });
        std::this_thread::sleep_for(std::chrono::milliseconds(5 + 20 * round));
        threads.emplace_back([&] { engine.close(); });
        engine.close();
        for (std::thread & thread : threads) {
            thread.join();
        }
        CHECK(finished == 12);
        CHECK(scheduler.stats().n_seq_used == 0);
    }
}

}  // namespace

int main() {
    const std::string path = "test-race.gguf";
    TinyModel tiny;
    tiny.write(path, true);
    ModelParams params;
    params.model_path = path;
    params.n_ctx      = 1024;
    params.n_batch    = 64;
    params.n_ubatch   = 32;
    params.n_parallel = 8;
    params.n_threads  = 2;
    everything_at_once(params);
    closing_while_others_wait(params);
    std::remove(path.c_str());
    return check_result("race");
}
