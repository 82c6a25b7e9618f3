// The engine on a tiny model: many requests, cancellation, a full context, bad requests, closing. Run under the sanitizers.

#include "engine.h"

#include "check.h"
#include "errors.h"
#include "tiny-model.h"

#include <chrono>
#include <cstdio>
#include <random>
#include <string>
#include <thread>
#include <vector>

using namespace darwin_neg;
using namespace std::chrono_literals;

static Update finish(Scheduler & scheduler, int64_t id) {
    while (true) {
        if (auto update = scheduler.wait(id, 1s)) {
            if (update->finished) {
                scheduler.release(id);
                return *update;
            }
        }
    }
}

static int64_t submit(Scheduler & scheduler, std::vector<llama_token> prompt, const RequestParams & params) {
    return scheduler.submit({std::move(prompt)}, params).front();
}

static std::vector<llama_token> prompt(int n) {
    std::vector<llama_token> out = {256};
    for (int i = 0; i < n; ++i) {
        out.push_back('a' + i % 26);
    }
    return out;
}

template <typename E, typename F>
static void check_throws(F && f, const char * words) {
    try {
        f();
        CHECK(!"no exception");
    } catch (const E & e) {
        CHECK(std::string(e.what()).find(words) != std::string::npos);
    }
}

int main() {
    const std::string path = "test-engine.gguf";
    TinyModel tiny;
    tiny.write(path, true);
    ModelParams params;
    params.model_path = path;
    params.n_ctx      = 256;
    params.n_batch    = 64;
    params.n_ubatch   = 32;
    params.n_parallel = 4;
    params.n_threads  = 2;
    {
        Engine engine(params, "");
        Scheduler & s = engine.scheduler();

        RequestParams greedy;
        greedy.temperature = 0.0f;
        greedy.max_tokens  = 20;
        greedy.ignore_eos  = true;
        const Update alone = finish(s, submit(s, prompt(30), greedy));
        CHECK(alone.samples.size() == 1 && alone.samples[0].tokens.size() == 20 && alone.samples[0].entropy.size() == 20);
        CHECK(alone.samples[0].finish_reason == "length");

        // more samples than places: one prompt decoded, all equal under greedy decoding
        const int64_t before = s.stats().n_prompt_decoded;
        RequestParams many   = greedy;
        many.n               = 11;
        const Update samples = finish(s, submit(s, prompt(30), many));
        CHECK(s.stats().n_prompt_decoded - before == 31);
        CHECK(samples.samples.size() == 11);
        for (const auto & sample : samples.samples) {
            CHECK(sample.tokens == alone.samples[0].tokens);
        }

        // requests of every kind at once
        std::mt19937 rng(1);
        std::vector<int64_t> ids;
        std::vector<int64_t> cancelled;
        for (int i = 0; i < 80; ++i) {
            RequestParams p;
            p.n           = 1 + static_cast<int>(rng() % 6);
            p.max_tokens  = static_cast<int>(rng() % 30);
            p.temperature = 1.5f;
            p.seed        = i;
            p.logprobs    = i % 3 - 1;
            p.stream      = i % 2 == 0;
            p.stop        = i % 4 ? std::vector<std::string>{} : std::vector<std::string>{"e", "xyz"};
            p.neg_action  = i % 3 == 0 ? NegAction::sample : NegAction::model_default;
            if (i % 10 == 0) {
                p.grammar = "root ::= [a-f]+";
            }
            ids.push_back(submit(s, prompt(1 + static_cast<int>(rng() % 150)), p));
            if (rng() % 4 == 0) {
                cancelled.push_back(ids.back());
            }
        }
        check_throws<ContextFullError>([&] { submit(s, prompt(300), greedy); }, "256");
        check_throws<RequestError>([&] { submit(s, {}, greedy); }, "no tokens");
        check_throws<RequestError>([&] { submit(s, {9999}, greedy); }, "9999");
        RequestParams bad = greedy;
        bad.grammar       = "root ::= (";
        check_throws<RequestError>([&] { submit(s, prompt(3), bad); }, "grammar");
        for (const int64_t id : cancelled) {
            s.cancel(id);
        }
        for (const int64_t id : ids) {
            finish(s, id);
        }
        Stats stats = s.stats();
        CHECK(stats.n_seq_used == 0 && stats.kv_cells_used == 0 && stats.n_running == 0 && stats.n_waiting == 0);

        // four endless sequences cannot fit 256 cells: some give way and come back, each ends at the context's size
        RequestParams endless = greedy;
        endless.max_tokens    = -1;
        std::vector<int64_t> long_ids;
        for (int i = 0; i < 4; ++i) {
            long_ids.push_back(submit(s, prompt(40), endless));
        }
        for (const int64_t id : long_ids) {
            const Update update = finish(s, id);
            CHECK(update.samples[0].finish_reason == "length");
            CHECK(update.samples[0].tokens.size() + 41 == 257);
        }
        CHECK(s.stats().n_preempted > 0);

        const Evaluation e = engine.evaluate({prompt(100)}, true, true);
        CHECK(e.predicted_entropy.size() == 101 && e.hidden.size() == 101u * TinyModel::hidden);
        for (size_t i = 0; i < e.predicted_entropy.size(); ++i) {
            CHECK(std::fabs(e.predicted_entropy[i] - reference_entropy(tiny.head, e.hidden.data() + i * TinyModel::hidden)) < 1e-5);
        }

        // closing while requests run ends them; waiting threads return
        RequestParams stream = endless;
        stream.stream        = true;
        const int64_t last   = submit(s, prompt(10), stream);
        std::thread waiter([&] {
            while (true) {
                const auto update = s.wait(last, 100ms);
                if (update && update->finished) {
                    return;
                }
            }
        });
        std::this_thread::sleep_for(20ms);
        s.close();
        waiter.join();
        check_throws<Error>([&] { submit(s, prompt(3), greedy); }, "closed");
    }
    // many engines, opened and closed at once
    for (int i = 0; i < 5; ++i) {
        Engine engine(params, "");
        if (i % 2) {
            RequestParams p;
            submit(engine.scheduler(), prompt(5), p);
        }
    }
    ModelParams missing = params;
    missing.model_path  = "nowhere.gguf";
    check_throws<ModelFileError>([&] { Engine engine(missing, ""); }, "nowhere.gguf");
    std::remove(path.c_str());
    return check_result("engine");
}
