// Prefixes that are kept, pushed out, saved and loaded, by several threads at once. Run under the sanitizers.

#include "engine.h"

#include "check.h"
#include "consumer.h"
#include "errors.h"
#include "tiny-model.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace darwin_neg;

static std::vector<llama_token> text(int seed, int n) {
    std::vector<llama_token> out = {256};
    for (int i = 0; i < n; ++i) {
        out.push_back('a' + (i * (seed + 3) + seed) % 26);
    }
    return out;
}

static std::vector<llama_token> join(std::vector<llama_token> a, const std::vector<llama_token> & b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

static void common_lengths() {
    CHECK(common_length({}, {}) == 0);
    CHECK(common_length({1, 2, 3}, {}) == 0);
    CHECK(common_length({1, 2, 3}, {1, 2}) == 2);
    CHECK(common_length({1, 2, 3}, {1, 2, 3}) == 3);
    CHECK(common_length({1, 2, 3}, {1, 4, 3}) == 1);
}

static void a_prompt_continues_what_was_kept(const ModelParams & params) {
    Engine engine(params, "");
    Scheduler & scheduler = *engine.scheduler();
    Consumer consumer(engine);
    const auto first   = consumer.run(text(1, 60), greedy_params(5));
    const auto stats   = scheduler.stats();
    const auto second  = consumer.run(join(text(1, 60), {'x', 'y', 'z'}), greedy_params(5));
    const auto another = consumer.run(text(2, 60), greedy_params(5));
    CHECK(first.n_cached_tokens == 0 && first.n_prompt_tokens == 61);
    CHECK(second.n_cached_tokens == 61 && second.n_prompt_tokens == 64);
    CHECK(another.n_cached_tokens < 8);
    CHECK(scheduler.stats().n_prompt_decoded - stats.n_prompt_decoded <= 3 + 61);
    CHECK(scheduler.stats().n_prefixes == 3);
    CHECK(scheduler.stats().n_seq_used == 0);
}

static void states_are_saved_and_loaded(const ModelParams & params) {
    PrefixCache::State state;
    Update expected;
    {
        Engine engine(params, "");
        Consumer consumer(engine);
        CHECK(engine.scheduler()->save_prefix(text(1, 60)).tokens.empty());
        consumer.run(text(1, 60), greedy_params(1));
        expected = consumer.run(join(text(1, 60), {'q', 'r'}), greedy_params(8));
        state    = engine.scheduler()->save_prefix(text(1, 60));
        CHECK(state.tokens.size() >= 61 && !state.bytes.empty());
        CHECK(engine.scheduler()->save_prefix({}).tokens == state.tokens);
    }
    Engine engine(params, "");
    Consumer consumer(engine);
    PrefixCache::State cut = state;
    cut.bytes.resize(cut.bytes.size() / 2);
    check_throws<RequestError>([&] { engine.scheduler()->load_prefix(cut); }, "cannot be read");
    check_throws<RequestError>([&] { engine.scheduler()->load_prefix({text(1, 3), {1, 2, 3}}); }, "cannot be read");
    engine.scheduler()->load_prefix(state);
    for (int i = 0; i < 8; ++i) {  // more than the context keeps
        consumer.run(text(10 + i, 40), greedy_params(1));
    }
    const Update got = consumer.run(join(text(1, 60), {'q', 'r'}), greedy_params(8));
    CHECK(got.n_cached_tokens >= 61);
    CHECK(got.samples[0].tokens == expected.samples[0].tokens);
    CHECK(engine.scheduler()->stats().n_seq_used == 0);
}

static void many_at_once(const ModelParams & params) {
    ModelParams small        = params;
    small.n_ctx              = 256;
    small.prefix_cache_bytes = 300'000;
    Engine engine(small, "");
    std::atomic<int> n_done = 0;
    std::vector<std::thread> threads;
    threads.reserve(3);
    for (int t = 0; t < 3; ++t) {
        threads.emplace_back([&, t] {
            Consumer consumer(engine);
            for (int i = 0; i < 6; ++i) {
                RequestParams request           = greedy_params(4);
                request.n                       = 1 + i % 3;
                std::vector<llama_token> tokens = join(text(i % 2, 50), text(t, 10 + i));
                const Requests requests         = consumer.submit(std::move(tokens), request);
                if (i % 4 == 3) {
                    requests.cancel();
                }
                consumer.finish(requests);
                ++n_done;
                const auto state = engine.scheduler()->save_prefix({});
                if (i == 2 && !state.tokens.empty()) {
                    try {
                        engine.scheduler()->load_prefix(state);
                    } catch (const RequestError &) {  // no room beside what runs
                        CHECK(true);
                    }
                }
            }
        });
    }
    for (auto & thread : threads) {
        thread.join();
    }
    CHECK(n_done == 18);
    const Stats stats = engine.scheduler()->stats();
    CHECK(stats.n_seq_used == 0 && stats.n_prompt_reused > 0);
}

static void closing_ends_those_who_save(const ModelParams & params) {
    auto engine            = std::make_unique<Engine>(params, "");
    const auto scheduler   = engine->scheduler();
    std::atomic<bool> stop = false;
    std::thread saver([&] {
        while (!stop) {
            try {
                scheduler->save_prefix({});
            } catch (const Error &) {
                stop = true;
            }
        }
    });
    Consumer consumer(*engine);
    consumer.run(text(1, 40), greedy_params(2));
    engine->close();
    saver.join();
    CHECK(stop);
    check_throws<Error>([&] { scheduler->save_prefix({}); }, "closed");
}

int main() {
    const std::string path = "test-prefix-cache.gguf";
    TinyModel model;
    model.write(path, true);
    ModelParams params;
    params.model_path   = path;
    params.n_ctx        = 512;
    params.n_batch      = 64;
    params.n_ubatch     = 64;
    params.n_parallel   = 3;
    params.prefix_cache = 3;
    params.n_threads    = k_n_threads;
    params.flash_attn   = "off";
    params.type_k       = "f32";
    params.type_v       = "f32";
    common_lengths();
    a_prompt_continues_what_was_kept(params);
    states_are_saved_and_loaded(params);
    many_at_once(params);
    closing_ends_those_who_save(params);
    std::remove(path.c_str());
    return check_result("prefix-cache");
}
