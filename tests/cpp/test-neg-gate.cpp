// The gate and the draw as sampler stages: host form, chain, clone, and the in-graph form against the host form.

#include "llama-neg.h"

#include "check.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-cpu.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <vector>

struct SamplerDeleter {
    void operator()(llama_sampler * s) const { llama_sampler_free(s); }
};
using Sampler = std::unique_ptr<llama_sampler, SamplerDeleter>;

static std::vector<llama_token_data> row(const std::vector<float> & logits) {
    std::vector<llama_token_data> out;
    for (size_t i = 0; i < logits.size(); ++i) {
        out.push_back({static_cast<llama_token>(i), logits[i], 0.0f});
    }
    return out;
}

static std::vector<llama_token> kept(llama_sampler * gate, std::vector<llama_token_data> & data, float entropy) {
    llama_token_data_array array = {data.data(), data.size(), -1, false};
    llama_sampler_neg_set(gate, entropy);
    llama_sampler_apply(gate, &array);
    std::vector<llama_token> out;
    for (size_t i = 0; i < array.size; ++i) {
        out.push_back(array.data[i].id);
    }
    return out;
}

static void inactive_rows_are_untouched() {
    const Sampler gate(llama_sampler_init_neg_gate({1.0f, 2, 0.5f}));
    for (const float entropy : {0.0f, 1.0f, NAN, -INFINITY}) {
        auto data         = row({3, 1, 2, -INFINITY, 0});
        const auto before = data;
        CHECK(kept(gate.get(), data, entropy).size() == 5);
        CHECK(std::memcmp(before.data(), data.data(), data.size() * sizeof(llama_token_data)) == 0);
        CHECK(!llama_sampler_neg_is_active(gate.get()));
    }
}

static void active_rows_keep_the_best_k_in_order() {
    const Sampler gate(llama_sampler_init_neg_gate({1.0f, 3, 1.0f}));
    auto data = row({1, 5, 2, 5, 5, 5});
    CHECK((kept(gate.get(), data, 1.5f) ==
           std::vector<llama_token>{1, 3, 4}));  // ties to the lowest ids, vocabulary order
    CHECK(llama_sampler_neg_is_active(gate.get()));
    data = row({1, 2});
    CHECK(kept(gate.get(), data, INFINITY).size() == 2);
    data = row({-INFINITY, -INFINITY, -INFINITY, -INFINITY, 0});
    CHECK((kept(gate.get(), data, 2.0f) == std::vector<llama_token>{0, 1, 4}));
    const Sampler never(llama_sampler_init_neg_gate({INFINITY, 1, 1.0f}));
    data = row({1, 2, 3});
    CHECK(kept(never.get(), data, 1e30f).size() == 3);
}

static void chain_stages_are_set_cloned_and_copied_together() {
    const Sampler chain(llama_sampler_chain_init(llama_sampler_chain_default_params()));
    llama_sampler_chain_add(chain.get(), llama_sampler_init_neg_gate({1.0f, 4, 1.0f}));
    llama_sampler_chain_add(chain.get(), llama_sampler_init_neg_draw(1.0f, 5));
    llama_sampler_chain_add(chain.get(), llama_sampler_init_temp(0.0f));
    llama_sampler_chain_add(chain.get(), llama_sampler_init_dist(1));

    std::set<llama_token> drawn;
    const auto logits = std::vector<float>{0, 3.0f, 0, 2.9f, 0, 2.8f, 2.7f};
    for (int i = 0; i < 60; ++i) {
        auto data                    = row(logits);
        llama_token_data_array array = {data.data(), data.size(), -1, false};
        llama_sampler_neg_set(chain.get(), i % 2 ? 2.0f : 0.5f);
        llama_sampler_apply(chain.get(), &array);
        const llama_token token = array.data[array.selected].id;
        if (i % 2) {
            drawn.insert(token);
        } else {
            CHECK(token == 1);  // inactive: greedy
        }
    }
    CHECK((drawn == std::set<llama_token>{1, 3, 5, 6}));

    llama_sampler_neg_set(chain.get(), 2.0f);
    const Sampler copy(llama_sampler_clone(chain.get()));
    CHECK(llama_sampler_neg_is_active(copy.get()));
    for (int i = 0; i < 20; ++i) {  // the clone draws the same numbers
        auto a                   = row(logits);
        auto b                   = row(logits);
        llama_token_data_array x = {a.data(), a.size(), -1, false};
        llama_token_data_array y = {b.data(), b.size(), -1, false};
        llama_sampler_apply(chain.get(), &x);
        llama_sampler_apply(copy.get(), &y);
        CHECK(x.data[x.selected].id == y.data[y.selected].id);
    }
    llama_sampler_reset(chain.get());
    CHECK(!llama_sampler_neg_is_active(chain.get()));
    llama_sampler_neg_set(nullptr, 1.0f);
    CHECK(!llama_sampler_neg_is_active(nullptr));
}

static void draw_leaves_impossible_rows_alone() {
    const Sampler draw(llama_sampler_init_neg_draw(0.0f, 1));
    auto data = row({-INFINITY, -INFINITY});
    CHECK(kept(draw.get(), data, 1.0f).size() == 2);
    data = row({-INFINITY, 1.0f, -INFINITY});
    for (int i = 0; i < 20; ++i) {
        auto once = data;
        CHECK((kept(draw.get(), once, 1.0f) == std::vector<llama_token>{1}));
    }
}

static void graph_form_equals_host_form() {
    std::mt19937 rng(3);
    std::normal_distribution<float> normal(0.0f, 3.0f);
    std::uniform_real_distribution<float> uniform(0.0f, 2.0f);
    const ggml_backend_ptr backend(ggml_backend_cpu_init());
    ggml_backend_cpu_set_n_threads(backend.get(), 1);
    for (const int n : {1, 5, 20, 21, 300, 5000}) {
        for (const llama_neg_gate_params & p :
             {llama_neg_gate_params{1.0f, 20, 1.0f}, llama_neg_gate_params{0.5f, 1, 0.6f}}) {
            const Sampler gate(llama_sampler_init_neg_gate(p));
            const ggml_context_ptr ctx(ggml_init({64 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true}));
            ggml_cgraph * graph   = ggml_new_graph(ctx.get());
            llama_sampler_data io = {};
            ggml_tensor * in = io.logits = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, n);
            ggml_tensor * neg = io.neg = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, 1);
            gate->iface->backend_apply(gate.get(), ctx.get(), graph, &io);
            ggml_build_forward_expand(graph, io.logits);
            const ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors(ctx.get(), backend.get()));
            for (int r = 0; r < 40; ++r) {
                std::vector<float> logits(n);
                for (float & x : logits) {
                    x = r % 3 ? normal(rng) : std::round(normal(rng)) + 0.0f;  // every third row is full of ties
                    x = r % 5 == 4 && rng() % 2 ? -INFINITY : x;
                }
                const float entropy = r % 7 == 6 ? NAN : uniform(rng);
                ggml_backend_tensor_set(in, logits.data(), 0, logits.size() * sizeof(float));
                ggml_backend_tensor_set(neg, &entropy, 0, sizeof(float));
                CHECK(ggml_backend_graph_compute(backend.get(), graph) == GGML_STATUS_SUCCESS);
                std::vector<float> got(n);
                ggml_backend_tensor_get(io.logits, got.data(), 0, got.size() * sizeof(float));

                std::vector<float> want(n, -INFINITY);
                auto data                    = row(logits);
                llama_token_data_array array = {data.data(), data.size(), -1, false};
                llama_sampler_neg_set(gate.get(), entropy);
                llama_sampler_apply(gate.get(), &array);
                for (size_t i = 0; i < array.size; ++i) {
                    want[array.data[i].id] = array.data[i].logit;
                }
                CHECK(got == want);
            }
        }
    }
}

int main() {
    inactive_rows_are_untouched();
    active_rows_keep_the_best_k_in_order();
    chain_stages_are_set_cloned_and_copied_together();
    draw_leaves_impossible_rows_alone();
    graph_form_equals_host_form();
    return check_result("neg-gate");
}
