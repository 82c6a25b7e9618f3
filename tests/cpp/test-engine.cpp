// The engine on a tiny model: many requests, cancellation, a full context, bad requests, closing. Run under the sanitizers.

#include "engine.h"

#include "check.h"
#include "errors.h"
#include "tiny-model.h"

#include <algorithm>
#include <atomic>
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

namespace darwin_neg {

struct SchedulerTest {
    static void decode_with(Scheduler & s, std::function<int32_t(llama_context *, llama_batch)> decode) { s.decode_ = std::move(decode); }
};

}  // namespace darwin_neg

// A prompt is decoded in pieces beside what runs, and what runs goes on meanwhile.
static void a_long_prompt_does_not_stall_others(const ModelParams & params) {
    ModelParams roomy = params;
    roomy.n_ctx       = 2048;
    roomy.n_batch     = 512;
    Engine engine(roomy, "");
    Scheduler & s = engine.scheduler();
    std::vector<int32_t> shapes;  // tokens of each step
    SchedulerTest::decode_with(s, [&](llama_context * ctx, llama_batch batch) {
        shapes.push_back(batch.n_tokens);
        return llama_decode(ctx, batch);
    });
    RequestParams greedy;
    greedy.temperature   = 0.0f;
    greedy.ignore_eos    = true;
    greedy.max_tokens    = 200;
    greedy.stream        = true;
    const int64_t stream = submit(s, prompt(3), greedy);
    while (!s.wait(stream, 1s)) {
    }
    greedy.stream     = false;
    greedy.max_tokens = 1;
    finish(s, submit(s, prompt(600), greedy));
    s.cancel(stream);
    finish(s, stream);
    s.close();
    const auto pieces = std::count_if(shapes.begin() + 1, shapes.end(), [](int32_t n) { return n > 1; });
    CHECK(pieces >= 4);
    CHECK(*std::max_element(shapes.begin() + 1, shapes.end()) < 200);
}

// Three requests for two places: the third starts in the step after the second ends, not when the first does.
static void a_place_is_refilled_at_once(const ModelParams & params) {
    ModelParams two = params;
    two.n_parallel  = 2;
    Engine engine(two, "");
    Scheduler & s = engine.scheduler();
    RequestParams greedy;
    greedy.temperature = 0.0f;
    greedy.ignore_eos  = true;
    std::vector<int64_t> ids;
    for (const int n : {20, 4, 4}) {
        greedy.max_tokens = n;
        ids.push_back(submit(s, prompt(2), greedy));
    }
    for (const int64_t id : ids) {
        finish(s, id);
    }
    CHECK(s.stats().n_steps <= 22);  // 28 if the third waited for the first
}

// Every sample of a request fails when its prompt cannot be decoded, nobody waits for ever, and the next request is served.
static void a_failed_decode_ends_all_samples(const ModelParams & params) {
    Engine engine(params, "");
    Scheduler & s = engine.scheduler();
    RequestParams greedy;
    greedy.temperature     = 0.0f;
    greedy.max_tokens      = 5;
    greedy.n               = 7;
    std::atomic<bool> fail = true;
    SchedulerTest::decode_with(s, [&](llama_context * ctx, llama_batch batch) { return fail ? -3 : llama_decode(ctx, batch); });
    const Update update = finish(s, submit(s, prompt(9), greedy));
    CHECK(update.samples.size() == 7);
    for (const auto & sample : update.samples) {
        CHECK(sample.finish_reason == "error" && sample.error && sample.error->find("-3") != std::string::npos);
    }
    fail = false;
    CHECK(finish(s, submit(s, prompt(9), greedy)).samples[6].tokens.size() > 0);
    CHECK(s.stats().n_seq_used == 0);
}

// A prompt that nobody wants any more is not even decoded to the end of its batch.
static void cancelling_stops_a_prompt_at_once(const ModelParams & params) {
    ModelParams one_batch = params;
    one_batch.n_batch     = 256;
    Engine engine(one_batch, "");
    Scheduler & s = engine.scheduler();
    RequestParams greedy;
    greedy.temperature      = 0.0f;
    std::atomic<int64_t> id = -1;
    SchedulerTest::decode_with(s, [&](llama_context * ctx, llama_batch batch) {
        while (id < 0) {
            std::this_thread::sleep_for(1ms);
        }
        s.cancel(id);
        return llama_decode(ctx, batch);
    });
    id = submit(s, prompt(240), greedy);
    CHECK(finish(s, id).samples[0].finish_reason == "cancelled");
    CHECK(s.stats().n_prompt_decoded == 0);
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
        check_throws<RequestError>([&] { submit(s, prompt(3), bad); }, "grammar cannot be parsed: expecting");
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

        const Evaluation e = engine.evaluate({prompt(100)}, {true, true, 3});
        CHECK(e.predicted_entropy.size() == 101 && e.hidden.size() == 101u * TinyModel::hidden);
        for (size_t i = 0; i < e.predicted_entropy.size(); ++i) {
            CHECK(std::fabs(e.predicted_entropy[i] - reference_entropy(tiny.head, e.hidden.data() + i * TinyModel::hidden)) < 1e-5);
        }

        // several texts at once are what each is alone, in whatever batches they fall, but for the rounding of attention in half precision
        std::vector<std::vector<llama_token>> texts;
        for (int i = 1; i < 40; ++i) {
            texts.push_back(prompt(i * 7 % 130 + 1));
            texts.back().push_back(100 + i);
        }
        const Evaluation together = engine.evaluate(texts, {true, false, 2});
        size_t at                 = 0;
        for (const auto & text : texts) {
            const Evaluation alone = engine.evaluate({text}, {true, true, 2});
            for (size_t i = 0; i < text.size(); ++i, ++at) {
                CHECK(std::fabs(alone.true_entropy[i] - together.true_entropy[at]) < 2e-3);
                CHECK(std::fabs(alone.predicted_entropy[i] - together.predicted_entropy[at]) < 2e-3);
                CHECK(std::fabs(alone.hidden[i * TinyModel::hidden] - together.hidden[at * TinyModel::hidden]) < 2e-3);
                CHECK(std::isnan(together.logprobs[at]) == (i + 1 == text.size()));
                const float * row = &alone.logits[i * static_cast<size_t>(alone.n_vocab)];
                const float lse   = row[alone.top_ids[2 * i]] - alone.top_logprobs[2 * i];
                CHECK(i + 1 == text.size() || std::fabs(row[text[i + 1]] - lse - together.logprobs[at]) < 2e-3);
            }
        }
        CHECK(at == static_cast<size_t>(together.n_tokens));
        CHECK(engine.evaluate({}, {}).n_tokens == 0);
        check_throws<RequestError>([&] { engine.evaluate({{}}, {}); }, "empty");

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
    a_long_prompt_does_not_stall_others(params);
    a_place_is_refilled_at_once(params);
    a_failed_decode_ends_all_samples(params);
    cancelling_stops_a_prompt_at_once(params);
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
