#include "sampler.h"

#include "chat_template.h"
#include "errors.h"
#include "log_sink.h"
#include "logits.h"
#include "schema_grammar.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>

namespace darwin_neg {

namespace {

// What llama.cpp's grammar parser logged about it, as ": reason", or nothing.
std::string parser_reason(const std::vector<std::string> & lines) {
    constexpr size_t k_most       = 160;  // the parser quotes the rest of the grammar
    constexpr const char * k_mark = "error parsing grammar: ";
    for (const std::string & line : lines) {
        const size_t at = line.find(k_mark);
        if (at != std::string::npos) {
            const std::string reason = line.substr(at + std::strlen(k_mark));
            return ": " + (reason.size() > k_most ? reason.substr(0, k_most) + "..." : reason);
        }
    }
    return "";
}

// Tried on its own: common_sampler_init would lose the chain it has begun when the grammar cannot be parsed.
void require_grammar(const Model & model, const std::string & grammar) {
    const ErrorLineScope errors;
    llama_sampler * trial = llama_sampler_init_grammar(model.vocab(), grammar.c_str(), "root");
    if (trial == nullptr) {
        throw RequestError("grammar cannot be parsed" + parser_reason(errors.lines()) +
                           " (GBNF with a rule `root` is expected, without left recursion)");
    }
    llama_sampler_free(trial);
}

int32_t neg_action(std::optional<NegAction> action) {
    if (!action) {
        return -1;
    }
    switch (*action) {
        case NegAction::off: return LLAMA_NEG_OFF;
        case NegAction::mask: return LLAMA_NEG_MASK;
        case NegAction::sample: return LLAMA_NEG_SAMPLE;
    }
    return -1;
}

std::vector<common_sampler_type> sampler_order(const std::vector<std::string> & names) {
    std::vector<common_sampler_type> out;
    for (const std::string & name : names) {
        // common leaves out a name it does not know, with a line in the log
        const std::vector<common_sampler_type> types = common_sampler_types_from_names({name});
        if (types.empty()) {
            throw RequestError(
                "samplers names '" + name +
                "', which does not exist; known are penalties, dry, top_n_sigma, top_k, typ_p, top_p, min_p, xtc, "
                "temperature and adaptive_p");
        }
        out.push_back(types.front());
    }
    return out;
}

}  // namespace

common_params_sampling sampling_params(const Model & model, const RequestParams & r, const ChatPrompt * chat) {
    const auto n_ctx     = static_cast<int32_t>(model.n_ctx());
    const auto look_back = [n_ctx](int32_t n) { return n < 0 ? n_ctx : n; };
    common_params_sampling s;
    s.no_perf               = true;
    s.temp                  = r.temperature.front();
    s.dynatemp_range        = r.dynatemp_range;
    s.dynatemp_exponent     = r.dynatemp_exponent;
    s.top_k                 = r.top_k;
    s.top_p                 = r.top_p;
    s.min_p                 = r.min_p;
    s.typ_p                 = r.typical_p;
    s.top_n_sigma           = r.top_n_sigma;
    s.xtc_probability       = r.xtc_probability;
    s.xtc_threshold         = r.xtc_threshold;
    s.adaptive_target       = r.adaptive_target;
    s.adaptive_decay        = r.adaptive_decay;
    s.min_keep              = r.min_keep;
    s.mirostat              = r.mirostat;
    s.mirostat_tau          = r.mirostat_tau;
    s.mirostat_eta          = r.mirostat_eta;
    s.penalty_repeat        = r.repeat_penalty;
    s.penalty_last_n        = look_back(r.repeat_last_n);
    s.penalty_freq          = r.frequency_penalty;
    s.penalty_present       = r.presence_penalty;
    s.dry_multiplier        = r.dry_multiplier;
    s.dry_base              = r.dry_base;
    s.dry_allowed_length    = r.dry_allowed_length;
    s.dry_penalty_last_n    = look_back(r.dry_penalty_last_n);
    s.dry_sequence_breakers = r.dry_sequence_breakers;
    s.n_prev                = std::max({s.n_prev, s.penalty_last_n, s.dry_penalty_last_n});
    s.ignore_eos            = r.ignore_eos;
    if (!r.samplers.empty()) {
        s.samplers = sampler_order(r.samplers);
    }
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
        // as a user's grammar: an OUTPUT_FORMAT would have to accept the generation prompt too
        s.grammar = {COMMON_GRAMMAR_TYPE_USER, AnswerSchema(r.json_schema).grammar()};
    } else if (!r.grammar.empty()) {
        s.grammar = {COMMON_GRAMMAR_TYPE_USER, r.grammar};
    } else if (chat != nullptr) {
        chat->apply_to(model, s);
    }
    if (chat != nullptr && chat->has_tools && !(r.json_schema.empty() && r.grammar.empty())) {
        throw RequestError(std::string(r.grammar.empty() ? "json_schema" : "grammar") +
                           " and tools are both given; give one, or tool_choice=\"none\"");
    }
    const bool marked = chat != nullptr && chat->mark_reasoning(model, s);
    if (r.reasoning_budget_tokens) {
        if (!marked) {
            throw RequestError("reasoning_budget_tokens needs a chat whose template marks the reasoning; leave it out");
        }
        s.reasoning_budget_tokens = *r.reasoning_budget_tokens;
    }
    if (!s.grammar.empty()) {
        require_grammar(model, common_grammar_value(s.grammar));
    }
    if (chat != nullptr && !r.grammar.empty()) {
        chat->constrain_text(r.grammar, s);
    }
    s.neg.action    = neg_action(r.neg_action);
    s.neg.threshold = r.neg_threshold.value_or(NAN);
    s.neg.top_k     = r.neg_top_k.value_or(0);
    s.neg.temp      = r.neg_use_temp_scale ? (*r.neg_use_temp_scale ? 1 : 0) : -1;
    return s;
}

Row read_row(llama_context * context, int32_t index, bool has_neg) {
    return {llama_get_logits_ith(context, index), has_neg ? llama_get_neg_ith(context, index) : NAN};
}

namespace {

bool has_penalties(const common_params_sampling & s) {
    return s.penalty_repeat != 1.0f || s.penalty_freq != 0.0f || s.penalty_present != 0.0f;
}

// How many tokens of what came before the samplers look at.
size_t tokens_looked_at(const common_params_sampling & s) {
    const int32_t penalties = has_penalties(s) ? s.penalty_last_n : 0;
    const int32_t dry       = s.dry_multiplier > 0.0f ? s.dry_penalty_last_n : 0;
    return static_cast<size_t>(std::max({penalties, dry, 0}));
}

// Temperature 0 takes the largest logit whatever truncates the candidates before it, as long as nothing reorders them,
// and nothing drops the largest, as typical sampling and XTC do.
bool is_greedy(const common_params_sampling & s) {
    const auto in_chain = [&s](common_sampler_type type) {
        return std::find(s.samplers.begin(), s.samplers.end(), type) != s.samplers.end();
    };
    const bool coldest =
        s.temp <= 0.0f && s.dynatemp_range <= 0.0f && s.mirostat == 0 && in_chain(COMMON_SAMPLER_TYPE_TEMPERATURE);
    const bool reorders = has_penalties(s) || s.dry_multiplier > 0.0f || in_chain(COMMON_SAMPLER_TYPE_INFILL) ||
                          in_chain(COMMON_SAMPLER_TYPE_ADAPTIVE_P);
    const bool drops_largest = s.typ_p < 1.0f || s.xtc_probability > 0.0f;
    const bool budget        = s.reasoning_budget_tokens >= 0 || s.reasoning_control;
    return coldest && !reorders && !drops_largest && !budget && s.grammar.empty() && s.neg.action != LLAMA_NEG_SAMPLE;
}

std::vector<std::pair<llama_token, float>> all_biases(const Model & model, const common_params_sampling & s) {
    std::map<llama_token, float> sums;
    for (const llama_logit_bias & bias : s.logit_bias) {
        sums[bias.token] += bias.bias;
    }
    int32_t n_suppressed           = 0;
    const llama_token * suppressed = llama_vocab_get_suppress_tokens(model.vocab(), &n_suppressed);
    for (int32_t i = 0; i < n_suppressed; ++i) {
        sums[suppressed[i]] = -INFINITY;
    }
    return {sums.begin(), sums.end()};
}

}  // namespace

Sampler::Sampler(const Model & model, common_params_sampling base, uint32_t seed, int32_t index,
                 const std::vector<llama_token> & prompt)
    : model_(model), greedy_(is_greedy(base)) {
    base.seed = sample_seed(seed, index);
    try {
        chain_.reset(common_sampler_init(model.get(), base));
    } catch (const std::exception & e) {
        throw RequestError(std::string(base.grammar.empty() ? "sampling parameters" : "grammar") +
                           " refused: " + one_line(e.what()));
    }
    // penalties look back into the prompt too
    const size_t seen = std::min(prompt.size(), tokens_looked_at(base));
    std::for_each(prompt.end() - static_cast<std::ptrdiff_t>(seen), prompt.end(),
                  [&](llama_token token) { common_sampler_accept(chain_.get(), token, false); });
    neg_.init(model.get(), base.neg);
    if (greedy_) {
        biases_ = all_biases(model, base);
    }
}

// The largest of logit + bias, ties to the lower id; LLAMA_TOKEN_NULL when there is none.
llama_token Sampler::best(const float * logits) const {
    llama_token token = LLAMA_TOKEN_NULL;
    float largest     = -INFINITY;
    const auto offer  = [&](llama_token candidate, float value) {
        if (value > largest) {
            token   = candidate;
            largest = value;
        }
    };
    llama_token from = 0;
    for (const auto & [biased, bias] : biases_) {
        const llama_token candidate = row_argmax(logits + from, biased - from);
        if (candidate >= 0) {
            offer(from + candidate, logits[from + candidate]);
        }
        offer(biased, logits[biased] + bias);
        from = biased + 1;
    }
    const llama_token candidate = row_argmax(logits + from, model_.n_vocab() - from);
    if (candidate >= 0) {
        offer(from + candidate, logits[from + candidate]);
    }
    return token;
}

RequestError Sampler::nothing_left() const {
    if (neg_.current.active) {
        return RequestError(
            "no token can be chosen: the grammar or logit_bias excludes every token that the NEG gate kept (its top_k "
            "is " +
            std::to_string(neg_.gate.top_k) + "; raise it, or the threshold)");
    }
    return RequestError(
        "no token can be chosen: the grammar or logit_bias excludes every token (or the model's logits are not "
        "numbers)");
}

Drawn Sampler::draw(const Row & row, std::optional<int32_t> n_logprobs, bool true_entropy) {
    Drawn out;
    neg_.observe(row.entropy, nullptr);
    // An active gate keeps the largest logit, so it changes nothing here, unless a bias lifts a token that the gate has
    // dropped.
    if (greedy_ && (biases_.empty() || !neg_.current.active)) {
        out.token = best(row.logits);
        if (out.token == LLAMA_TOKEN_NULL) {
            throw nothing_left();
        }
    } else {
        out.token = common_sampler_sample_row(chain_.get(), row.logits, row.entropy);
        // When a grammar (or NaN logits) leaves nothing, the chain still "chooses" one of the tokens at -inf.
        const llama_token_data_array * candidates = common_sampler_get_candidates(chain_.get(), false);
        const float logit = candidates->selected >= 0 ? candidates->data[candidates->selected].logit : -INFINITY;
        if (!(logit > -INFINITY)) {
            throw nothing_left();
        }
        common_sampler_accept(chain_.get(), out.token, true);
    }
    out.neg = neg_.current;
    if (!n_logprobs && !true_entropy) {
        return out;
    }
    const int32_t n      = model_.n_vocab();
    const RowStats stats = row_stats(row.logits, n);
    out.true_entropy     = static_cast<float>(stats.entropy);
    if (n_logprobs) {
        const double total = stats.log_sum_exp;
        out.logprob        = static_cast<float>(row.logits[out.token] - total);
        if (*n_logprobs > 0) {
            out.top_ids = row_top(row.logits, n, *n_logprobs);
            for (const llama_token id : out.top_ids) {
                out.top_logprobs.push_back(static_cast<float>(row.logits[id] - total));
            }
        }
    }
    return out;
}

}  // namespace darwin_neg
