// NEG in common_sampler: what is recorded and when, and the same choices whether its chain runs on host or in graph.

#include "check.h"
#include "handles.h"
#include "sampling.h"
#include "tiny-model.h"

#include <cstdio>
#include <string>
#include <vector>

namespace {

constexpr float k_threshold = 0.5f;

struct Run {
    std::vector<llama_token> tokens;
    std::vector<common_neg_record> records;
};

common_params_sampling greedy() {
    common_params_sampling params;
    params.temp          = 0.0f;
    params.no_perf       = true;
    params.neg.threshold = k_threshold;
    return params;
}

Context make_context(llama_model * model, llama_sampler_seq_config * config) {
    llama_context_params p = llama_context_default_params();
    p.n_ctx                = 128;
    p.n_threads            = 1;
    p.n_threads_batch      = 1;
    p.samplers             = config;
    p.n_samplers           = config ? 1 : 0;
    return Context(llama_init_from_model(model, p));
}

Run generate(llama_model * model, bool in_graph) {
    common_params_sampling params = greedy();
    params.backend_sampling       = in_graph;
    const common_sampler_ptr sampler(common_sampler_init(model, params));
    llama_sampler_seq_config config = {0, common_sampler_get(sampler.get())};
    const Context ctx               = make_context(model, in_graph ? &config : nullptr);
    CHECK(ctx != nullptr);
    Run run;
    llama_token token = 'a';
    for (int pos = 0; pos < 60; ++pos) {
        Batch batch(1);
        batch.add(token, pos, 0, true);
        CHECK(llama_decode(ctx.get(), batch.get()) == 0);
        // a token that the graph has chosen already shows that its chain ran there
        CHECK((llama_get_sampled_token_ith(ctx.get(), 0) != LLAMA_TOKEN_NULL) == in_graph);
        token = common_sampler_sample(sampler.get(), ctx.get(), 0);
        common_sampler_accept(sampler.get(), token, true);
        run.tokens.push_back(token);
    }
    run.records = common_sampler_neg_records(sampler.get());
    return run;
}

void host_and_graph_agree(llama_model * model) {
    const Run host  = generate(model, false);
    const Run graph = generate(model, true);
    CHECK(host.tokens == graph.tokens);
    CHECK(host.records.size() == 60 && graph.records.size() == 60);
    int active = 0;
    for (size_t i = 0; i < host.records.size() && i < graph.records.size(); ++i) {
        CHECK(std::fabs(host.records[i].entropy - graph.records[i].entropy) < 1e-5f);
        CHECK(host.records[i].active == graph.records[i].active);
        CHECK(host.records[i].active == (host.records[i].entropy > k_threshold));
        active += host.records[i].active ? 1 : 0;
    }
    CHECK(active > 0 && active < 60);
}

// A token may be drawn twice (a grammar), or drawn and rejected (speculation): only acceptance counts.
void a_record_is_made_when_a_token_is_accepted(llama_model * model) {
    common_params_sampling params = greedy();
    const common_sampler_ptr sampler(common_sampler_init(model, params));
    const auto & records = common_sampler_neg_records(sampler.get());
    const Context ctx    = make_context(model, nullptr);
    Batch batch(2);
    batch.add('a', 0, 0, true);
    batch.add('b', 1, 0, true);
    CHECK(llama_decode(ctx.get(), batch.get()) == 0);

    common_sampler_sample(sampler.get(), ctx.get(), 0);
    const llama_token token = common_sampler_sample(sampler.get(), ctx.get(), 1);
    CHECK(records.empty());
    common_sampler_accept(sampler.get(), token, true);
    CHECK(records.size() == 1 && records[0].entropy == llama_get_neg_ith(ctx.get(), 1));
    common_sampler_accept(sampler.get(), 'x', false);  // a token of the prompt
    CHECK(records.size() == 1);

    // a copy goes its own way
    const common_sampler_ptr clone(common_sampler_clone(sampler.get()));
    common_sampler_sample(clone.get(), ctx.get(), 0);
    common_sampler_accept(clone.get(), token, true);
    CHECK(common_sampler_neg_records(clone.get()).size() == 2 && records.size() == 1);
    CHECK(common_sampler_neg_records(clone.get())[1].entropy == llama_get_neg_ith(ctx.get(), 0));
    common_sampler_copy(clone.get(), sampler.get());
    CHECK(records.size() == 2);
    common_sampler_reset(sampler.get());
    CHECK(records.empty() && common_sampler_neg_records(clone.get()).size() == 2);
}

}  // namespace

int main() {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    const std::string path = "test-common-neg.gguf";
    TinyModel tiny;
    tiny.write(path, true);
    {
        const Model model(llama_model_load_from_file(path.c_str(), llama_model_default_params()));
        CHECK(model != nullptr);
        a_record_is_made_when_a_token_is_accepted(model.get());
        host_and_graph_agree(model.get());
    }
    std::remove(path.c_str());
    return check_result("common-neg");
}
