#include "request.h"

#include "errors.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace darwin_neg {

namespace {

// Recursive descent in the grammar and schema parsers uses the C stack; deeper nesting than this does not come from
// honest input.
constexpr int k_max_nesting         = 200;
constexpr size_t k_max_grammar_size = 1 << 20;
constexpr int k_max_samples         = 4096;

[[noreturn]] void refuse(const std::string & message) {
    throw RequestError(message);
}

constexpr float k_unbounded = std::numeric_limits<float>::max();

// Overloads for the types of RequestParams' fields: numbers must be finite, what is not a number passes.
template <typename T>
void require_finite_values(const char * /*name*/, const T & /*value*/) {}

void require_finite_values(const char * name, const float & value) {
    if (!std::isfinite(value)) {
        refuse(std::string(name) + " must be a finite number");
    }
}

void require_finite_values(const char * name, const std::vector<float> & values) {
    for (const float & value : values) {
        require_finite_values(name, value);
    }
}

void require_range(const char * name, float value, float low, float high) {
    if (value >= low && value <= high) {
        return;
    }
    const std::string bounds = high < k_unbounded ? "between " + std::to_string(low) + " and " + std::to_string(high)
                                                  : "at least " + std::to_string(low);
    refuse(std::string(name) + " must be " + bounds + ", got " + std::to_string(value));
}

void require_at_least(const char * name, std::optional<int32_t> value, int32_t low) {
    if (value && *value < low) {
        refuse(std::string(name) + " must be at least " + std::to_string(low) +
               (low < 0 ? " (which means the whole context)" : "") + ", got " + std::to_string(*value));
    }
}

void require_no_empty(const char * name, const std::vector<std::string> & texts, const char * consequence) {
    for (const auto & text : texts) {
        if (text.empty()) {
            refuse(std::string(name) + " holds an empty string, " + consequence + "; remove it");
        }
    }
}

void check_nesting(const char * name, const std::string & text) {
    if (text.size() > k_max_grammar_size) {
        refuse(std::string(name) + " is larger than 1 MiB");
    }
    int depth = 0;
    for (const char c : text) {
        if (c == '(' || c == '[' || c == '{') {
            if (++depth > k_max_nesting) {
                refuse(std::string(name) + " is nested deeper than " + std::to_string(k_max_nesting) +
                       " levels; flatten it");
            }
        } else if (c == ')' || c == ']' || c == '}') {
            depth = std::max(0, depth - 1);
        }
    }
}

// splitmix64, public domain (Sebastiano Vigna): a bijective mixer, so different indices cannot share a seed by
// structure
uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

uint32_t usable(uint64_t x) {
    const auto low = static_cast<uint32_t>(x);
    return low == LLAMA_DEFAULT_SEED ? 0x5eed5eedU : low;
}

}  // namespace

void validate_request(const RequestParams & p, int32_t n_vocab) {
    RequestParams::visit_fields(p, [](const char * name, const auto & value) { require_finite_values(name, value); });
    if (p.n < 1 || p.n > k_max_samples) {
        refuse("n must be between 1 and " + std::to_string(k_max_samples) + ", got " + std::to_string(p.n));
    }
    require_at_least("max_tokens", p.max_tokens, 0);
    if (p.temperature.size() != 1 && p.temperature.size() != static_cast<size_t>(p.n)) {
        refuse("temperature must be one number, or one for each of the n = " + std::to_string(p.n) + " samples, got " +
               std::to_string(p.temperature.size()));
    }
    require_range("dynatemp_range", p.dynatemp_range, 0.0f, k_unbounded);
    require_range("top_p", p.top_p, 0.0f, 1.0f);
    require_range("min_p", p.min_p, 0.0f, 1.0f);
    require_range("typical_p", p.typical_p, 0.0f, 1.0f);
    require_range("xtc_probability", p.xtc_probability, 0.0f, 1.0f);
    require_range("xtc_threshold", p.xtc_threshold, 0.0f, 1.0f);
    require_at_least("min_keep", p.min_keep, 0);
    if (p.mirostat < 0 || p.mirostat > 2) {
        refuse("mirostat must be 0, 1 or 2, got " + std::to_string(p.mirostat));
    }
    require_range("mirostat_tau", p.mirostat_tau, 0.0f, k_unbounded);
    require_range("mirostat_eta", p.mirostat_eta, 0.0f, k_unbounded);
    if (p.repeat_penalty <= 0.0f || !std::isfinite(1.0f / p.repeat_penalty)) {
        refuse("repeat_penalty must be greater than 0");
    }
    require_at_least("repeat_last_n", p.repeat_last_n, -1);
    require_range("dry_multiplier", p.dry_multiplier, 0.0f, k_unbounded);
    require_range("dry_base", p.dry_base, 0.0f, k_unbounded);
    require_at_least("dry_allowed_length", p.dry_allowed_length, 0);
    require_at_least("dry_penalty_last_n", p.dry_penalty_last_n, -1);
    require_no_empty("dry_sequence_breakers", p.dry_sequence_breakers, "which breaks no sequence");
    require_at_least("reasoning_budget_tokens", p.reasoning_budget_tokens, 0);
    require_at_least("logprobs", p.logprobs, 0);
    if (p.logprobs && *p.logprobs > n_vocab) {
        refuse("logprobs must be between 0 and the vocabulary size " + std::to_string(n_vocab) + ", got " +
               std::to_string(*p.logprobs));
    }
    require_no_empty("stop", p.stop, "which would end every answer at once");
    for (const auto & [token, bias] : p.logit_bias) {
        if (token < 0 || token >= n_vocab) {
            refuse("logit_bias names token " + std::to_string(token) + ", outside the vocabulary of " +
                   std::to_string(n_vocab));
        }
        if (std::isnan(bias) || bias == std::numeric_limits<float>::infinity()) {
            refuse("logit_bias of token " + std::to_string(token) + " must be a number or -inf");
        }
    }
    if (!p.grammar.empty() && !p.json_schema.empty()) {
        refuse("grammar and json_schema are both given; give one");
    }
    check_nesting("grammar", p.grammar);
    check_nesting("json_schema", p.json_schema);
    if (p.neg_threshold && !(*p.neg_threshold >= 0.0f)) {
        refuse("neg threshold must be at least 0 nats, got " + std::to_string(*p.neg_threshold));
    }
    require_at_least("neg top_k", p.neg_top_k, 1);
}

bool asks_for_neg(const RequestParams & params) {
    const bool acts = params.neg_action && *params.neg_action != NegAction::off;
    return acts || params.neg_threshold || params.neg_top_k || params.neg_use_temp_scale;
}

uint32_t fold_seed(std::optional<int64_t> seed) {
    if (!seed || *seed < 0) {
        std::random_device device;
        return usable((static_cast<uint64_t>(device()) << 32) ^ device());
    }
    const auto value = static_cast<uint64_t>(*seed);
    return value < LLAMA_DEFAULT_SEED ? static_cast<uint32_t>(value) : usable(mix(value));
}

uint32_t sample_seed(uint32_t seed, int32_t index) {
    return index == 0 ? seed : usable(mix((static_cast<uint64_t>(seed) << 32) | static_cast<uint32_t>(index)));
}

}  // namespace darwin_neg
