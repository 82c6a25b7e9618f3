// Drafts of every length, right, wrong and mixed: what is generated is what the same engine generates without them, in
// its entropies too, which a state that was not taken back would move. On an attention-only and on a hybrid model.

#include "engine.h"

#include "check.h"
#include "tiny-hybrid.h"
#include "tiny-model.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

using namespace darwin_neg;
using namespace std::chrono_literals;

using Tokens = std::vector<llama_token>;

namespace darwin_neg {

struct SchedulerTest {
    static void draft_with(Scheduler & s, Drafter::Script script) { s.drafter_->use(std::move(script)); }
    static void decode_with(Scheduler & s, std::function<int32_t(llama_context *, llama_batch)> decode) {
        s.decode_ = std::move(decode);
    }
};

}  // namespace darwin_neg

namespace {

constexpr float k_close = 1e-4f;
#ifdef __SANITIZE_THREAD__
constexpr int k_longest = 2;  // ThreadSanitizer looks for other things than a wrong state
#else
constexpr int k_longest = 5;
#endif

ModelParams params_for(const std::string & path) {
    ModelParams params;
    params.model_path       = path;
    params.n_ctx            = 256;
    params.n_batch          = 64;
    params.n_ubatch         = 64;
    params.n_parallel       = 4;
    params.n_threads        = 1;
    params.mtp_max_parallel = 4;
    // without these, the shape of a batch alone would show: flash attention computes in half precision
    params.flash_attn = "off";
    params.type_k = params.type_v = "f32";
    return params;
}

Tokens prompt(int first, int n) {
    Tokens out = {256};
    for (int i = 0; i < n; ++i) {
        out.push_back('a' + (first + i * 7) % 26);
    }
    return out;
}

RequestParams request(int32_t max_tokens, float temperature = 0.0f) {
    RequestParams params;
    params.temperature  = {temperature};
    params.seed         = 5;
    params.ignore_eos   = true;
    params.max_tokens   = max_tokens;
    params.logprobs     = 0;
    params.true_entropy = true;
    return params;
}

// All that the requests came to, by their number.
std::vector<Update> run_all(Engine & engine, const std::vector<std::pair<Tokens, RequestParams>> & requests) {
    Scheduler & scheduler = *engine.scheduler();
    const auto inbox      = scheduler.inbox();
    std::vector<Requests> submitted;
    std::map<int64_t, size_t> number;
    for (const auto & [tokens, params] : requests) {
        submitted.push_back(scheduler.submit({tokens}, params, inbox));
        number.emplace(submitted.back().ids().front(), number.size());
    }
    std::vector<Update> out(requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
        auto update = scheduler.wait(*inbox, 60s);
        CHECK(update && update->finished);
        if (update) {
            out[number.at(update->request)] = std::move(*update);
        }
    }
    return out;
}

void check_same(const Update & drafted, const Update & plain) {
    CHECK(drafted.samples.size() == plain.samples.size());
    for (size_t k = 0; k < std::min(drafted.samples.size(), plain.samples.size()); ++k) {
        const SampleUpdate & a = drafted.samples[k];
        const SampleUpdate & b = plain.samples[k];
        CHECK(a.tokens == b.tokens && a.pieces == b.pieces && a.stop == b.stop);
        CHECK(std::string(a.finish_reason) == b.finish_reason);
        CHECK(a.entropy.size() == b.entropy.size() && a.logprobs.size() == b.logprobs.size());
        CHECK(a.true_entropy.size() == a.tokens.size() && b.true_entropy.size() == b.tokens.size());
        for (size_t i = 0; i < std::min(a.true_entropy.size(), b.true_entropy.size()); ++i) {
            CHECK(std::fabs(a.true_entropy[i] - b.true_entropy[i]) < k_close);
        }
        for (size_t i = 0; i < std::min(a.logprobs.size(), b.logprobs.size()); ++i) {
            CHECK(std::fabs(a.logprobs[i] - b.logprobs[i]) < k_close);
        }
        for (size_t i = 0; i < std::min(a.entropy.size(), b.entropy.size()); ++i) {
            CHECK(std::fabs(a.entropy[i] - b.entropy[i]) < k_close);
        }
    }
}

// What a sequence will say, by its beginning, and drafts made of it: of `length` tokens, of which the one at `wrong`
// and all after it are not what comes (-1: none is wrong).
class Oracle {
public:
    void learn(const Tokens & prompt, const Tokens & answer) {
        Tokens all = prompt;
        all.insert(all.end(), answer.begin(), answer.end());
        texts_.push_back(std::move(all));
    }

    Tokens draft(const Tokens & held, int length, int wrong) const {
        for (const Tokens & text : texts_) {
            if (text.size() >= held.size() && std::equal(held.begin(), held.end(), text.begin())) {
                Tokens out;
                for (int i = 0; i < length; ++i) {
                    const size_t at         = held.size() + static_cast<size_t>(i);
                    const llama_token right = at < text.size() ? text[at] : 0;
                    out.push_back(wrong >= 0 && i >= wrong ? (right + 1) % 256 : right);
                }
                return out;
            }
        }
        CHECK(!"a sequence that was not expected");
        return {};
    }

private:
    std::vector<Tokens> texts_;
};

// Every length, with the first wrong token at every place, and a new mixture at every step.
void drafts_of_every_kind(const ModelParams & plain_params) {
    ModelParams params = plain_params;
    params.draft       = "ngram";
    params.draft_max   = k_longest;
    Engine plain(plain_params, "");
    Engine engine(params, "");
    std::vector<std::pair<Tokens, RequestParams>> requests;
    for (int i = 0; i < 3; ++i) {
        requests.emplace_back(prompt(i, 3 + 5 * i), request(30 + i, i == 1 ? 1.0f : 0.0f));
    }
    const std::vector<Update> expected = run_all(plain, requests);
    Oracle oracle;
    for (size_t i = 0; i < requests.size(); ++i) {
        oracle.learn(requests[i].first, expected[i].samples[0].tokens);
    }
    const auto check_with = [&](Drafter::Script script, const char * what) {
        SchedulerTest::draft_with(*engine.scheduler(), std::move(script));
        const int before  = check_failures();
        const auto alone  = run_all(engine, {requests[0]});
        const auto beside = run_all(engine, requests);
        check_same(alone[0], expected[0]);
        for (size_t i = 0; i < requests.size(); ++i) {
            check_same(beside[i], expected[i]);
        }
        if (check_failures() > before) {
            std::fprintf(stderr, "  %s, %s\n", params.model_path.c_str(), what);
        }
    };
    for (int length = 0; length <= k_longest; ++length) {
        for (int wrong = -1; wrong < length; ++wrong) {
            check_with([&](const Drafter::Job & job) { return oracle.draft(job.tokens, length, wrong); },
                       ("length " + std::to_string(length) + ", wrong from " + std::to_string(wrong)).c_str());
        }
    }
    std::mt19937 rng(1);
    for (int i = 0; i < k_longest; ++i) {
        check_with(
            [&](const Drafter::Job & job) {
                const int length = static_cast<int>(rng() % (k_longest + 1));
                return oracle.draft(job.tokens, length, static_cast<int>(rng() % (k_longest + 2)) - 1);
            },
            "mixed");
    }
    const Stats stats = engine.scheduler()->stats();
    CHECK(stats.n_seq_used == 0 && stats.kv_cells_used == 0 && stats.n_preempted == 0);
    CHECK(std::all_of(stats.draft_accepted.begin(), stats.draft_accepted.end(), [](int64_t n) { return n > 0; }));
}

// Right drafts take as few steps as they can, and their count is kept by their place.
void right_drafts_save_steps(const ModelParams & plain_params) {
    ModelParams params = plain_params;
    params.draft       = "ngram";
    params.draft_max   = 3;
    Engine plain(plain_params, "");
    Engine engine(params, "");
    const Tokens tokens   = prompt(0, 5);
    const Update expected = run_all(plain, {{tokens, request(21)}})[0];
    Oracle oracle;
    oracle.learn(tokens, expected.samples[0].tokens);
    SchedulerTest::draft_with(*engine.scheduler(),
                              [&](const Drafter::Job & job) { return oracle.draft(job.tokens, 3, -1); });
    check_same(run_all(engine, {{tokens, request(21)}})[0], expected);
    const Stats stats = engine.scheduler()->stats();
    CHECK(stats.n_steps == 6);  // the prompt with the first token, then four at a time
    CHECK((stats.drafted == std::vector<int64_t>{5, 5, 5}) && stats.draft_accepted == stats.drafted);
    SchedulerTest::draft_with(*engine.scheduler(),
                              [&](const Drafter::Job & job) { return oracle.draft(job.tokens, 3, 1); });
    check_same(run_all(engine, {{tokens, request(21)}})[0], expected);
    const Stats after = engine.scheduler()->stats();
    CHECK(after.draft_accepted[0] > stats.draft_accepted[0] && after.draft_accepted[1] == stats.draft_accepted[1]);
}

// Drafts of different lengths become drafts of one; shorter rows come first in the batch.
void a_batch_has_at_most_two_lengths(const ModelParams & plain_params) {
    ModelParams params = plain_params;
    params.draft       = "ngram";
    params.draft_max   = 4;
    Engine engine(params, "");
    std::map<llama_seq_id, int> lengths = {{0, 1}, {1, 3}, {2, 3}, {3, 4}};
    SchedulerTest::draft_with(*engine.scheduler(), [&](const Drafter::Job & job) {
        return Tokens(static_cast<size_t>(lengths.at(job.seq)), 7);
    });
    std::vector<std::vector<int>> seen;  // rows of each sequence, in the order of the batch
    SchedulerTest::decode_with(*engine.scheduler(), [&](llama_context * ctx, llama_batch batch) {
        std::vector<int> rows;
        for (int32_t i = 0; i < batch.n_tokens; ++i) {
            if (i == 0 || batch.seq_id[i][0] != batch.seq_id[i - 1][0]) {
                rows.push_back(0);
            }
            ++rows.back();
        }
        seen.push_back(rows);
        return llama_decode(ctx, batch);
    });
    RequestParams four = request(10);
    four.n             = 4;
    run_all(engine, {{prompt(0, 5), four}});
    engine.close();
    CHECK(std::count(seen.begin(), seen.end(), std::vector<int>{1, 4, 4, 4}) > 0);
    for (size_t i = 1; i < seen.size(); ++i) {
        CHECK(std::is_sorted(seen[i].begin(), seen[i].end()));
        const auto longer = std::upper_bound(seen[i].begin(), seen[i].end(), 1);
        CHECK(longer == seen[i].end() || *longer == seen[i].back());
    }
}

// While several prompts are decoded, a recurrent memory may move the state of a sequence with drafts after it has been
// decoded, and would then return to the wrong one: no drafts are made.
void prompts_beside_drafts(const ModelParams & plain_params, bool recurrent) {
    ModelParams params = plain_params;
    params.draft       = "ngram";
    params.draft_max   = 3;
    Engine plain(plain_params, "");
    Engine engine(params, "");
    SchedulerTest::draft_with(*engine.scheduler(), [](const Drafter::Job &) { return Tokens(3, 11); });
    // the first generates; the others come together, the second of them with fewer tokens than a draft
    const std::vector<std::pair<Tokens, RequestParams>> requests = {
        {prompt(0, 4), request(40)}, {prompt(3, 30), request(6)}, {prompt(2, 1), request(6)}};
    std::atomic<size_t> n_submitted = 0;
    std::atomic<int> n_steps        = 0;
    std::vector<int> first_rows;  // of the first sequence, in batches with all three
    SchedulerTest::decode_with(*engine.scheduler(), [&](llama_context * ctx, llama_batch batch) {
        const size_t wanted = ++n_steps > 4 ? requests.size() : 0;
        while (n_submitted < wanted) {
            std::this_thread::sleep_for(1ms);
        }
        std::map<llama_seq_id, int> rows;
        for (int32_t i = 0; i < batch.n_tokens; ++i) {
            ++rows[batch.seq_id[i][0]];
        }
        if (rows.size() == requests.size()) {
            first_rows.push_back(rows.begin()->second);
        }
        return llama_decode(ctx, batch);
    });
    Scheduler & scheduler = *engine.scheduler();
    const auto inbox      = scheduler.inbox();
    std::vector<Requests> submitted;
    std::map<int64_t, size_t> number;
    for (const auto & [tokens, wanted] : requests) {
        submitted.push_back(scheduler.submit({tokens}, wanted, inbox));
        number.emplace(submitted.back().ids().front(), number.size());
        while (n_steps == 0) {
            std::this_thread::sleep_for(1ms);
        }
        ++n_submitted;
    }
    for (size_t i = 0; i < requests.size(); ++i) {
        const auto update = scheduler.wait(*inbox, 60s);
        CHECK(update.has_value());
        if (update) {
            check_same(*update, run_all(plain, {requests[number.at(update->request)]})[0]);
        }
    }
    engine.close();
    CHECK(!first_rows.empty() && first_rows.front() == (recurrent ? 1 : 4));
}

// A memory that is full of drafts is not full: nobody gives way for them.
void drafts_give_way_before_sequences_do(const ModelParams & plain_params) {
    ModelParams params = plain_params;
    params.draft       = "ngram";
    params.draft_max   = 3;
    Engine plain(plain_params, "");
    Engine engine(params, "");
    SchedulerTest::draft_with(*engine.scheduler(), [](const Drafter::Job &) { return Tokens(3, 11); });
    int n_refused = 0;
    SchedulerTest::decode_with(*engine.scheduler(), [&](llama_context * ctx, llama_batch batch) {
        const bool drafts = batch.n_tokens == 4;
        n_refused += drafts ? 1 : 0;
        return drafts ? 1 : llama_decode(ctx, batch);
    });
    check_same(run_all(engine, {{prompt(0, 9), request(20)}})[0], run_all(plain, {{prompt(0, 9), request(20)}})[0]);
    CHECK(n_refused > 0 && engine.scheduler()->stats().n_preempted == 0);
}

// The block of the model itself, with everything at once: samples, cancellations, a full context.
void the_block_is_right_most_of_the_time(const ModelParams & plain_params) {
    ModelParams params = plain_params;
    params.mtp         = 3;
    Engine plain(plain_params, "");
    Engine engine(params, "");
    std::vector<std::pair<Tokens, RequestParams>> requests;
    for (int i = 0; i < 12; ++i) {
        requests.emplace_back(prompt(i, 1 + 9 * i % 70), request(20 + 5 * i, i % 3 == 0 ? 0.0f : 1.0f));
        requests.back().second.n = 1 + i % 3;
    }
    std::vector<Update> expected;
    for (const auto & one : requests) {
        expected.push_back(run_all(plain, {one})[0]);
    }
    for (int round = 0; round < 2; ++round) {
        const Requests dropped =
            engine.scheduler()->submit({prompt(3, 40)}, request(200, 1.0f), engine.scheduler()->inbox());
        const auto together = run_all(engine, requests);
        for (size_t i = 0; i < requests.size(); ++i) {
            check_same(together[i], expected[i]);
        }
    }
    const Stats stats = engine.scheduler()->stats();
    CHECK(stats.draft_accepted[0] * 2 > stats.drafted[0] && stats.draft_accepted[2] > 0);
    CHECK(stats.n_preempted > 0);
}

}  // namespace

int main() {
    const std::string llama  = "test-drafter-llama.gguf";
    const std::string hybrid = "test-drafter-hybrid.gguf";
    TinyModel().write(llama, true);
    TinyHybrid::write(hybrid);
    for (const std::string & path : {llama, hybrid}) {
        const ModelParams params = params_for(path);
        drafts_of_every_kind(params);
        right_drafts_save_steps(params);
        a_batch_has_at_most_two_lengths(params);
        drafts_give_way_before_sequences_do(params);
        prompts_beside_drafts(params, path == hybrid);
    }
    the_block_is_right_most_of_the_time(params_for(hybrid));
    std::remove(llama.c_str());
    std::remove(hybrid.c_str());
    return check_result("drafter");
}
