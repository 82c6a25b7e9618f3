// The engine on a tiny model: many requests, cancellation, a full context, bad requests, closing. Run under the
// sanitizers.

#include "engine.h"

#include "check.h"
#include "consumer.h"
#include "errors.h"
#include "tiny-model.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

using namespace darwin_neg;
using namespace std::chrono_literals;

namespace darwin_neg {

struct SchedulerTest {
    static void decode_with(Scheduler & s, std::function<int32_t(llama_context *, llama_batch)> decode) {
        s.decode_ = std::move(decode);
    }
    static void abandon_all(Scheduler & s) {
        const Lock lock(s.mutex_);
        s.abandon_all_locked();
    }
};

}  // namespace darwin_neg

// Memory that runs out in one thread, at an allocation of choice.
struct Allocations {
    static thread_local bool counted;         // in this thread
    static std::atomic<int> n_until_failure;  // -1: none fails
    static std::atomic<bool> all_fail_then;   // or that one alone

    static bool one_fails() {
        if (!counted || n_until_failure < 0) {
            return false;
        }
        if (n_until_failure > 0) {
            --n_until_failure;
            return false;
        }
        if (!all_fail_then) {
            n_until_failure = -1;
        }
        return true;
    }
};

thread_local bool Allocations::counted        = false;
std::atomic<int> Allocations::n_until_failure = -1;
std::atomic<bool> Allocations::all_fail_then  = false;

void * operator new(std::size_t size) {
    void * memory = Allocations::one_fails() ? nullptr : std::malloc(std::max<std::size_t>(size, 1));
    if (memory == nullptr) {
        throw std::bad_alloc();
    }
    return memory;
}

void operator delete(void * memory) noexcept {
    std::free(memory);
}

void operator delete(void * memory, std::size_t /*size*/) noexcept {
    std::free(memory);
}

// A prompt is decoded in pieces beside what runs, which continues meanwhile.
static void a_long_prompt_does_not_stall_others(const ModelParams & params) {
    ModelParams roomy = params;
    roomy.n_ctx       = 2048;
    roomy.n_batch     = 512;
    Engine engine(roomy, "");
    Consumer streaming(engine);
    Consumer waiting(engine);
    std::vector<int32_t> shapes;  // tokens of each step
    SchedulerTest::decode_with(*engine.scheduler(), [&](llama_context * ctx, llama_batch batch) {
        shapes.push_back(batch.n_tokens);
        return llama_decode(ctx, batch);
    });
    RequestParams stream = greedy_params(200);
    stream.notify        = Notify::token;
    const Requests first = streaming.submit(prompt(3), stream);
    streaming.next();
    waiting.run(prompt(600), greedy_params(1));
    first.cancel();
    while (!streaming.next().finished) {
    }
    engine.close();
    const auto pieces = std::count_if(shapes.begin() + 1, shapes.end(), [](int32_t n) { return n > 1; });
    CHECK(pieces >= 4);
    CHECK(*std::max_element(shapes.begin() + 1, shapes.end()) < 200);
}

// Three requests for two places: the third starts in the step after the second ends, not when the first does.
static void a_place_is_refilled_at_once(const ModelParams & params) {
    ModelParams two = params;
    two.n_parallel  = 2;
    Engine engine(two, "");
    Consumer consumer(engine);
    std::vector<Requests> requests;
    for (const int n : {20, 4, 4}) {
        requests.push_back(consumer.submit(prompt(2), greedy_params(n)));
    }
    for (size_t i = 0; i < requests.size(); ++i) {
        CHECK(consumer.next().finished);
    }
    CHECK(consumer.scheduler.stats().n_steps <= 22);  // 28 if the third waited for the first
}

// Every sample of a request fails when its prompt cannot be decoded, nobody waits for ever, and the next request is
// served.
static void a_failed_decode_ends_all_samples(const ModelParams & params) {
    Engine engine(params, "");
    Consumer consumer(engine);
    RequestParams greedy   = greedy_params(5);
    greedy.n               = 7;
    std::atomic<bool> fail = true;
    SchedulerTest::decode_with(*engine.scheduler(), [&](llama_context * ctx, llama_batch batch) {
        return fail ? -3 : llama_decode(ctx, batch);
    });
    const Update update = consumer.run(prompt(9), greedy);
    CHECK(update.samples.size() == 7);
    for (const auto & sample : update.samples) {
        CHECK(ends_with(sample, "error") && sample.error && sample.error->find("-3") != std::string::npos);
    }
    fail = false;
    CHECK(consumer.run(prompt(9), greedy).samples[6].tokens.size() > 0);
    CHECK(consumer.scheduler.stats().n_seq_used == 0);
}

// Whatever is thrown in the worker ends the requests with an error, those that wait for a place too; the engine keeps
// serving.
static void an_exception_ends_requests_and_not_the_process(const ModelParams & params) {
    Engine engine(params, "");
    Consumer consumer(engine);
    std::atomic<int> kind = 1;
    SchedulerTest::decode_with(*engine.scheduler(), [&](llama_context * ctx, llama_batch batch) {
        switch (kind) {
            case 1: throw std::bad_alloc();
            case 2: throw 42;
            default: return llama_decode(ctx, batch);
        }
    });
    RequestParams greedy = greedy_params(5);
    greedy.n             = 9;  // more than there are places
    for (const char * words : {"bad_alloc", "unknown type"}) {
        const Update update = consumer.run(prompt(9), greedy);
        CHECK(update.samples.size() == 9);
        for (const auto & sample : update.samples) {
            CHECK(ends_with(sample, "error") && sample.error && sample.error->find(words) != std::string::npos);
        }
        ++kind;
    }
    CHECK(consumer.run(prompt(9), greedy).samples[8].tokens.size() == 5);
    CHECK(consumer.scheduler.stats().n_seq_used == 0);
}

// Memory runs out between two decodes, where requests get their places and batches are made: at every allocation in
// turn, once and for good.
static void a_failed_allocation_ends_requests_and_not_the_process(const ModelParams & params) {
    Engine engine(params, "");
    Consumer consumer(engine);
    std::atomic<bool> decoded = false;
    SchedulerTest::decode_with(*engine.scheduler(), [&](llama_context * ctx, llama_batch batch) {
        Allocations::counted         = true;  // this is the worker
        Allocations::n_until_failure = -1;
        decoded                      = true;
        return llama_decode(ctx, batch);
    });
    RequestParams greedy = greedy_params(2);
    greedy.n             = 2;
    const auto served    = [&] {
        const Update update = consumer.run(prompt(8), greedy);
        return update.samples.size() == 2 && update.samples[1].tokens.size() == 2;
    };
    CHECK(served());
    for (const bool all_fail_then : {false, true}) {
        int n_failed = 0;
        while (true) {
            decoded                      = false;
            Allocations::all_fail_then   = all_fail_then;
            Allocations::n_until_failure = n_failed;
            const Update update          = consumer.run(prompt(8), greedy);
            Allocations::n_until_failure = -1;
            if (decoded) {
                break;  // that many are not made
            }
            ++n_failed;
            CHECK(update.samples.size() == 2);
            for (const auto & sample : update.samples) {
                CHECK(ends_with(sample, "error") && sample.error);
            }
            CHECK(served());
        }
        CHECK(n_failed > 3);
    }
    CHECK(consumer.scheduler.stats().n_seq_used == 0);
}

// The last resort ends everything without memory to say why, in whatever state it is, and leaves the engine usable.
static void the_last_resort_ends_everything(const ModelParams & params) {
    Engine engine(params, "");
    Consumer consumer(engine);
    std::atomic<bool> abandoned = false;
    SchedulerTest::decode_with(*engine.scheduler(), [&](llama_context * ctx, llama_batch batch) {
        const int32_t rc = llama_decode(ctx, batch);
        if (!abandoned.exchange(true)) {
            SchedulerTest::abandon_all(*engine.scheduler());
            return 2;  // nothing of this batch is wanted any more
        }
        return rc;
    });
    RequestParams greedy = greedy_params(50);
    greedy.n             = 6;
    const Update lost    = consumer.run(prompt(9), greedy);
    CHECK(lost.samples.size() == 6);
    for (const auto & sample : lost.samples) {
        CHECK(ends_with(sample, "error") && sample.error && *sample.error == "out of memory");
    }
    CHECK(consumer.scheduler.stats().n_seq_used == 0);
    CHECK(consumer.run(prompt(9), greedy).samples[5].tokens.size() == 50);
}

// A prompt that nobody wants any more is not even decoded to the end of its batch.
static void cancelling_stops_a_prompt_at_once(const ModelParams & params) {
    ModelParams one_batch = params;
    one_batch.n_batch     = 256;
    Engine engine(one_batch, "");
    Consumer consumer(engine);
    std::atomic<const Requests *> submitted = nullptr;
    SchedulerTest::decode_with(*engine.scheduler(), [&](llama_context * ctx, llama_batch batch) {
        while (submitted == nullptr) {
            std::this_thread::sleep_for(1ms);
        }
        submitted.load()->cancel();
        return llama_decode(ctx, batch);
    });
    const Requests requests = consumer.submit(prompt(240), greedy_params(std::nullopt));
    submitted               = &requests;
    CHECK(ends_with(consumer.finish(requests).samples[0], "cancelled"));
    CHECK(consumer.scheduler.stats().n_prompt_decoded == 0);
}

// What is dropped stops running, whether or not anybody has heard of it.
static void dropped_requests_end(const ModelParams & params) {
    Engine engine(params, "");
    Consumer consumer(engine);
    for (int i = 0; i < 20; ++i) {
        const Requests requests = consumer.submit(prompt(20), greedy_params(std::nullopt));
        if (i % 2 == 0) {
            std::this_thread::sleep_for(2ms);
        }
    }
    while (consumer.scheduler.stats().n_running + consumer.scheduler.stats().n_waiting > 0) {
        std::this_thread::sleep_for(1ms);
    }
    CHECK(consumer.scheduler.stats().n_seq_used == 0);
    CHECK(!consumer.scheduler.wait(*consumer.inbox, 0s));  // and no news of them is left
}

// An inbox hears of tokens, of samples or of requests, whichever was asked for.
static void an_inbox_hears_what_was_asked_for(const ModelParams & params) {
    Engine engine(params, "");
    Consumer consumer(engine);
    RequestParams greedy                 = greedy_params(12);
    greedy.n                             = 3;
    const std::vector<llama_token> whole = consumer.run(prompt(9), greedy).samples[0].tokens;
    for (const Notify notify : {Notify::token, Notify::sample}) {
        greedy.notify           = notify;
        const Requests requests = consumer.submit(prompt(9), greedy);
        std::vector<std::vector<llama_token>> tokens(3);
        size_t n_updates = 0;
        bool finished    = false;
        while (!finished) {
            const Update update = consumer.next();
            ++n_updates;
            for (const auto & sample : update.samples) {
                auto & all = tokens[static_cast<size_t>(sample.index)];
                CHECK(notify == Notify::token ||
                      (all.empty() && sample.tokens.size() == 12 && ends_with(sample, "length")));
                all.insert(all.end(), sample.tokens.begin(), sample.tokens.end());
            }
            finished = update.finished;
        }
        CHECK(notify == Notify::token ? n_updates > 3 : n_updates <= 3);
        for (const auto & all : tokens) {
            CHECK(all == whole);
        }
    }
    // two threads on one inbox: each update goes to one of them
    std::vector<Requests> requests;
    for (int i = 0; i < 20; ++i) {
        requests.push_back(consumer.submit(prompt(3), greedy_params(4)));
    }
    std::atomic<int> heard = 0;
    const auto listen      = [&] {
        while (consumer.scheduler.wait(*consumer.inbox, 60s)) {
            if (++heard == 20) {
                consumer.scheduler.close_inbox(*consumer.inbox);
            }
        }
    };
    std::thread other(listen);
    listen();
    other.join();
    CHECK(heard == 20);
}

// Setting `stop`, cancelling and closing each end a long score() early, and nothing of it is left behind.
static void scoring_can_be_stopped(const ModelParams & params) {
    Engine engine(params, "");
    const std::vector<std::vector<llama_token>> texts(5000, prompt(100));  // seconds of work
    const auto stopped_by = [&](const std::function<void(std::atomic<bool> &)> & act) {
        std::atomic<bool> stop    = false;
        std::atomic<bool> stopped = false;
        std::atomic<bool> ended   = false;
        std::thread scoring([&] {
            try {
                engine.scorer().score(texts, {}, stop);
            } catch (const Error & e) {
                stopped = std::string(e.what()) == "scoring was cancelled";
            }
            ended = true;
        });
        // again and again, since on a busy machine the call may not have begun yet
        while (!ended) {
            std::this_thread::sleep_for(50ms);
            act(stop);
        }
        scoring.join();
        CHECK(stopped);
    };
    stopped_by([](std::atomic<bool> & stop) { stop = true; });
    stopped_by([&](std::atomic<bool> &) { engine.cancel_all(); });
    stopped_by([&](std::atomic<bool> &) { engine.close(); });
    std::atomic<bool> stop = false;
    check_throws<Error>([&] { engine.scorer().score(texts, {}, stop); }, "closed");
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
    params.n_threads  = k_n_threads;
    {
        Engine engine(params, "");
        Scheduler & s = *engine.scheduler();
        Consumer consumer(engine);
        const auto score = [&](const std::vector<std::vector<llama_token>> & texts, const ScoreParts & parts) {
            std::atomic<bool> stop = false;
            return engine.scorer().score(texts, parts, stop);
        };

        const RequestParams greedy = greedy_params(20);
        const Update alone         = consumer.run(prompt(30), greedy);
        CHECK(alone.samples.size() == 1 && alone.samples[0].tokens.size() == 20 &&
              alone.samples[0].entropy.size() == 20);
        CHECK(ends_with(alone.samples[0], "length"));

        // more samples than places: one prompt decoded, all equal under greedy decoding
        const auto n_prompt  = [&] { return s.stats().n_prompt_decoded + s.stats().n_prompt_reused; };
        const int64_t before = n_prompt();
        RequestParams many   = greedy;
        many.n               = 11;
        const Update samples = consumer.run(prompt(30), many);
        CHECK(n_prompt() - before == 31);
        CHECK(samples.samples.size() == 11);
        for (const auto & sample : samples.samples) {
            CHECK(sample.tokens == alone.samples[0].tokens);
        }

        // the measured entropy is the scorer's, for every sample, and asking for it changes no token
        RequestParams measured = many;
        measured.true_entropy  = true;
        const Update entropies = consumer.run(prompt(30), measured);
        CHECK(entropies.has_true_entropy && !samples.has_true_entropy && alone.samples[0].true_entropy.empty());
        std::vector<llama_token> whole = prompt(30);
        whole.insert(whole.end(), alone.samples[0].tokens.begin(), alone.samples[0].tokens.end());
        const Scores scored = score({whole}, {false, false, 0});
        for (const auto & sample : entropies.samples) {
            CHECK(sample.tokens == alone.samples[0].tokens);
            CHECK(sample.true_entropy.size() == sample.tokens.size());
            for (size_t i = 0; i < sample.true_entropy.size(); ++i) {
                const float expected = scored.true_entropy[whole.size() - sample.tokens.size() + i - 1];
                CHECK(std::fabs(sample.true_entropy[i] - expected) < 2e-3);
            }
        }

        // requests of every kind at once
        std::mt19937 rng(1);
        std::vector<Requests> requests;
        std::vector<size_t> cancelled;
        for (int i = 0; i < 80; ++i) {
            RequestParams p;
            p.n            = 1 + static_cast<int>(rng() % 6);
            p.max_tokens   = static_cast<int>(rng() % 30);
            p.temperature  = {1.5f};
            p.seed         = i;
            p.true_entropy = i % 5 == 0;
            if (i % 3 > 0) {
                p.logprobs = i % 3 - 1;
            }
            p.notify = i % 2 == 0 ? Notify::token : i % 3 == 0 ? Notify::sample : Notify::request;
            p.stop   = i % 4 ? std::vector<std::string>{} : std::vector<std::string>{"e", "xyz"};
            if (i % 3 == 0) {
                p.neg_action = NegAction::sample;
            }
            if (i % 10 == 0) {
                p.grammar = "root ::= [a-f]+";
            }
            requests.push_back(consumer.submit(prompt(1 + static_cast<int>(rng() % 150)), p));
            if (rng() % 4 == 0) {
                cancelled.push_back(requests.size() - 1);
            }
        }
        check_throws<ContextFullError>([&] { consumer.submit(prompt(300), greedy); }, "256");
        check_throws<RequestError>([&] { consumer.submit({}, greedy); }, "no tokens");
        check_throws<RequestError>([&] { consumer.submit({9999}, greedy); }, "9999");
        RequestParams bad = greedy;
        bad.grammar       = "root ::= (";
        check_throws<RequestError>([&] { consumer.submit(prompt(3), bad); }, "grammar cannot be parsed: expecting");
        bad          = greedy;
        bad.samplers = {"top_k", "nonsense"};
        check_throws<RequestError>([&] { consumer.submit(prompt(3), bad); }, "'nonsense'");
        bad                         = greedy;
        bad.reasoning_budget_tokens = 5;
        check_throws<RequestError>([&] { consumer.submit(prompt(3), bad); }, "reasoning_budget_tokens");
        for (const size_t i : cancelled) {
            requests[i].cancel();
        }
        std::set<int64_t> open;
        for (const Requests & request : requests) {
            open.insert(request.ids().front());
        }
        while (!open.empty()) {
            const Update update = consumer.next();
            if (update.finished) {
                CHECK(open.erase(update.request) == 1);
            }
        }
        requests.clear();
        const Stats stats = s.stats();
        CHECK(stats.n_seq_used == 0 && stats.kv_cells_used == 0 && stats.n_running == 0 && stats.n_waiting == 0);

        // four endless sequences cannot fit 256 cells: some give way and come back, each ends at the context's size
        for (int i = 0; i < 4; ++i) {
            requests.push_back(consumer.submit(prompt(40), greedy_params(std::nullopt)));
        }
        for (int i = 0; i < 4; ++i) {
            const Update update = consumer.next();
            CHECK(ends_with(update.samples[0], "length"));
            CHECK(update.samples[0].tokens.size() + 41 == 257);
        }
        requests.clear();
        CHECK(s.stats().n_preempted > 0);

        const Scores e = score({prompt(100)}, {true, true, 3});
        CHECK(e.predicted_entropy.size() == 101 && e.hidden.size() == 101u * TinyModel::hidden);
        for (size_t i = 0; i < e.predicted_entropy.size(); ++i) {
            CHECK(std::fabs(e.predicted_entropy[i] -
                            reference_entropy(tiny.head, e.hidden.data() + i * TinyModel::hidden)) < 1e-5);
        }

        // several texts at once are what each is alone, in whatever batches they fall, but for the rounding of
        // attention in half precision
        std::vector<std::vector<llama_token>> texts;
        for (int i = 1; i < 40; ++i) {
            texts.push_back(prompt(i * 7 % 130 + 1));
            texts.back().push_back(100 + i);
        }
        const Scores together = score(texts, {true, false, 2});
        size_t at             = 0;
        for (const auto & text : texts) {
            const Scores single = score({text}, {true, true, 2});
            for (size_t i = 0; i < text.size(); ++i, ++at) {
                CHECK(std::fabs(single.true_entropy[i] - together.true_entropy[at]) < 2e-3);
                CHECK(std::fabs(single.predicted_entropy[i] - together.predicted_entropy[at]) < 2e-3);
                CHECK(std::fabs(single.hidden[i * TinyModel::hidden] - together.hidden[at * TinyModel::hidden]) < 2e-3);
                CHECK(std::isnan(together.logprobs[at]) == (i + 1 == text.size()));
                const float * row = &single.logits[i * static_cast<size_t>(single.n_vocab)];
                const float lse   = row[single.top_ids[2 * i]] - single.top_logprobs[2 * i];
                CHECK(i + 1 == text.size() || std::fabs(row[text[i + 1]] - lse - together.logprobs[at]) < 2e-3);
            }
        }
        CHECK(at == static_cast<size_t>(together.n_tokens));
        CHECK(score({}, {}).n_tokens == 0);
        check_throws<RequestError>([&] { score({{}}, {}); }, "empty");

        // closing while requests run ends them; waiting threads get their last update, then and later
        RequestParams stream = greedy_params(std::nullopt);
        stream.notify        = Notify::token;
        Consumer later(engine);
        const Requests last  = consumer.submit(prompt(10), stream);
        const Requests other = later.submit(prompt(10), greedy_params(std::nullopt));
        std::thread waiter([&] {
            Update update;
            while (!update.finished) {
                update = consumer.next();
            }
            CHECK(ends_with(update.samples[0], "cancelled") || ends_with(update.samples[0], "length"));
        });
        std::this_thread::sleep_for(20ms);
        engine.close();
        waiter.join();
        CHECK(later.finish(other).finished);
        check_throws<Error>([&] { consumer.submit(prompt(3), greedy); }, "closed");
    }
    a_long_prompt_does_not_stall_others(params);
    a_place_is_refilled_at_once(params);
    a_failed_decode_ends_all_samples(params);
    an_exception_ends_requests_and_not_the_process(params);
    a_failed_allocation_ends_requests_and_not_the_process(params);
    the_last_resort_ends_everything(params);
    cancelling_stops_a_prompt_at_once(params);
    dropped_requests_end(params);
    an_inbox_hears_what_was_asked_for(params);
    scoring_can_be_stopped(params);
    // many engines, opened and closed at once, some of them outlived by a request
    for (int i = 0; i < 5; ++i) {
        std::optional<Requests> request;
        Engine engine(params, "");
        if (i % 2) {
            Consumer consumer(engine);
            request.emplace(consumer.submit(prompt(5), RequestParams()));
        }
    }
    ModelParams missing = params;
    missing.model_path  = "nowhere.gguf";
    check_throws<ModelFileError>([&] { Engine engine(missing, ""); }, "nowhere.gguf");
    std::remove(path.c_str());
    return check_result("engine");
}
