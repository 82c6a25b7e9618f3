#include "sampler.h"

#include "chat_template.h"
#include "errors.h"

#include "json-schema-to-grammar.h"
#include "json.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace darwin_neg {

namespace {

// llama.cpp's parsers describe errors over several lines
std::string one_line(const char * text) {
    std::string out;
    for (const char * c = text; *c != '\0'; ++c) {
        out += *c == '\n' ? ' ' : *c;
    }
    return out;
}

std::string grammar_of_schema(const std::string & schema) {
    common_json parsed;
    try {
        parsed = common_json::parse(schema);
    } catch (const std::exception & e) {
        throw RequestError("json_schema is not valid JSON: " + one_line(e.what()));
    }
    try {
        return json_schema_to_grammar(parsed);
    } catch (const std::exception & e) {
        throw RequestError("json_schema cannot be turned into a grammar: " + one_line(e.what()));
    }
}

int32_t neg_action(NegAction action) {
    switch (action) {
        case NegAction::off: return LLAMA_NEG_OFF;
        case NegAction::mask: return LLAMA_NEG_MASK;
        case NegAction::sample: return LLAMA_NEG_SAMPLE;
        default: return -1;
    }
}

}  // namespace

common_params_sampling sampling_params(const Model & model, const RequestParams & r) {
    common_params_sampling s;
    s.no_perf         = true;
    s.temp            = r.temperature;
    s.top_k           = r.top_k;
    s.top_p           = r.top_p;
    s.min_p           = r.min_p;
    s.typ_p           = r.typical_p;
    s.penalty_repeat  = r.repeat_penalty;
    s.penalty_freq    = r.frequency_penalty;
    s.penalty_present = r.presence_penalty;
    s.penalty_last_n  = r.repeat_last_n < 0 ? static_cast<int32_t>(model.n_ctx()) : r.repeat_last_n;
    s.n_prev          = std::max(s.n_prev, s.penalty_last_n);
    s.ignore_eos      = r.ignore_eos;
    for (const auto & [token, bias] : r.logit_bias) {
        s.logit_bias.push_back({token, bias});
    }
    if (r.ignore_eos) {
        for (llama_token token = 0; token < model.n_vocab(); ++token) {
            if (llama_vocab_is_eog(model.vocab(), token)) {
                s.logit_bias.push_back({token, -INFINITY});
            }
        }
    }
    if (!r.json_schema.empty()) {
        s.grammar = {COMMON_GRAMMAR_TYPE_OUTPUT_FORMAT, grammar_of_schema(r.json_schema)};
    } else if (!r.grammar.empty()) {
        s.grammar = {COMMON_GRAMMAR_TYPE_USER, r.grammar};
    } else if (r.chat) {
        r.chat->apply_to(model, s);
    }
    if (!s.grammar.empty() && !s.grammar_lazy) {
        // tried on its own first: common_sampler_init would lose the chain it has begun when the grammar cannot be parsed
        llama_sampler * trial = llama_sampler_init_grammar(model.vocab(), common_grammar_value(s.grammar).c_str(), "root");
        if (trial == nullptr) {
            throw RequestError("grammar cannot be parsed (GBNF with a rule `root` is expected, without left recursion)");
        }
        llama_sampler_free(trial);
    }
    s.neg.action    = neg_action(r.neg_action);
    s.neg.threshold = r.neg_threshold;
    s.neg.top_k     = r.neg_top_k;
    s.neg.temp      = r.neg_use_temp_scale;
    return s;
}

common_sampler_ptr make_sampler(const Model & model, common_params_sampling base, uint32_t seed, int32_t index) {
    base.seed = sample_seed(seed, index);
    try {
        return common_sampler_ptr(common_sampler_init(model.get(), base));
    } catch (const std::exception & e) {
        throw RequestError(std::string(base.grammar.empty() ? "sampling parameters" : "grammar") + " refused: " + one_line(e.what()));
    }
}

llama_token sample_token(common_sampler * sampler, llama_context * context, int32_t row) {
    const llama_token token = common_sampler_sample(sampler, context, row);
    // When a grammar (or NaN logits) leaves nothing, the chain still "chooses" one of the tokens at -inf.
    const llama_token_data_array * candidates = common_sampler_get_candidates(sampler, false);
    const float logit                         = candidates->selected >= 0 ? candidates->data[candidates->selected].logit : -INFINITY;
    if (!(logit > -INFINITY)) {
        throw RequestError(
            "no token can be chosen: the grammar or logit_bias excludes every token (or the model's logits are not numbers)");
    }
    return token;
}

double log_sum_exp(const float * logits, int32_t n) {
    const float largest = *std::max_element(logits, logits + n);
    double sum          = 0.0;
    for (int32_t i = 0; i < n; ++i) {
        sum += std::exp(static_cast<double>(logits[i] - largest));
    }
    return static_cast<double>(largest) + std::log(sum);
}

void append_logprobs(const Model & model, llama_context * context, int32_t row, llama_token token, int32_t k, SampleUpdate & out) {
    const float * logits = llama_get_logits_ith(context, row);
    const int32_t n      = model.n_vocab();
    const double total   = log_sum_exp(logits, n);
    out.logprobs.push_back(static_cast<float>(logits[token] - total));
    if (k <= 0) {
        return;
    }
    std::vector<llama_token> ids(n);
    std::iota(ids.begin(), ids.end(), 0);
    const auto before = [logits](llama_token a, llama_token b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
    std::partial_sort(ids.begin(), ids.begin() + k, ids.end(), before);
    for (int32_t i = 0; i < k; ++i) {
        out.top_ids.push_back(ids[i]);
        out.top_logprobs.push_back(static_cast<float>(logits[ids[i]] - total));
    }
}

}  // namespace darwin_neg
