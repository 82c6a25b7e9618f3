#include "request.h"

#include "errors.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace darwin_neg {

namespace {

// Recursive descent in the grammar and schema parsers uses the C stack; deeper nesting than this is no honest input.
constexpr int k_max_nesting         = 200;
constexpr size_t k_max_grammar_size = 1 << 20;
constexpr int k_max_samples         = 4096;

[[noreturn]] void refuse(const std::string & message) {
    throw RequestError(message);
}

void require_finite(const char * name, float value) {
    if (!std::isfinite(value)) {
        refuse(std::string(name) + " must be a finite number");
    }
}

void require_range(const char * name, float value, float low, float high) {
    require_finite(name, value);
    if (value < low || value > high) {
        refuse(std::string(name) + " must be between " + std::to_string(low) + " and " + std::to_string(high) + ", got " +
               std::to_string(value));
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
                refuse(std::string(name) + " is nested deeper than " + std::to_string(k_max_nesting) + " levels; flatten it");
            }
        } else if (c == ')' || c == ']' || c == '}') {
            depth = std::max(0, depth - 1);
        }
    }
}

// splitmix64, public domain (Sebastiano Vigna): a bijective mixer, so different indices cannot share a seed by structure
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
    if (p.n < 1 || p.n > k_max_samples) {
        refuse("n must be between 1 and " + std::to_string(k_max_samples) + ", got " + std::to_string(p.n));
    }
    if (p.max_tokens < -1) {
        refuse("max_tokens must be at least 0 (or -1 for no limit), got " + std::to_string(p.max_tokens));
    }
    require_finite("temperature", p.temperature);
    for (const float temperature : p.temperatures) {
        require_finite("temperature", temperature);
    }
    if (!p.temperatures.empty() && p.temperatures.size() != static_cast<size_t>(p.n)) {
        refuse("temperature must be one number, or one for each of the n = " + std::to_string(p.n) + " samples, got " +
               std::to_string(p.temperatures.size()));
    }
    require_range("top_p", p.top_p, 0.0f, 1.0f);
    require_range("min_p", p.min_p, 0.0f, 1.0f);
    require_range("typical_p", p.typical_p, 0.0f, 1.0f);
    require_finite("repeat_penalty", p.repeat_penalty);
    if (p.repeat_penalty <= 0.0f || !std::isfinite(1.0f / p.repeat_penalty)) {
        refuse("repeat_penalty must be greater than 0");
    }
    if (p.repeat_last_n < -1) {
        refuse("repeat_last_n must be at least 0 (or -1 for the whole context), got " + std::to_string(p.repeat_last_n));
    }
    require_finite("frequency_penalty", p.frequency_penalty);
    require_finite("presence_penalty", p.presence_penalty);
    if (p.logprobs < -1 || p.logprobs > n_vocab) {
        refuse("logprobs must be between 0 and the vocabulary size " + std::to_string(n_vocab) + ", got " + std::to_string(p.logprobs));
    }
    for (const auto & stop : p.stop) {
        if (stop.empty()) {
            refuse("stop holds an empty string, which would end every answer at once; remove it");
        }
    }
    for (const auto & [token, bias] : p.logit_bias) {
        if (token < 0 || token >= n_vocab) {
            refuse("logit_bias names token " + std::to_string(token) + ", outside the vocabulary of " + std::to_string(n_vocab));
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
    if (!std::isnan(p.neg_threshold) && p.neg_threshold < 0.0f) {
        refuse("neg threshold must be at least 0 nats, got " + std::to_string(p.neg_threshold));
    }
    if (p.neg_top_k < 0) {
        refuse("neg top_k must be at least 1, got " + std::to_string(p.neg_top_k));
    }
}

uint32_t fold_seed(int64_t seed) {
    if (seed < 0) {
        std::random_device device;
        return usable((static_cast<uint64_t>(device()) << 32) ^ device());
    }
    const auto value = static_cast<uint64_t>(seed);
    return value < LLAMA_DEFAULT_SEED ? static_cast<uint32_t>(value) : usable(mix(value));
}

uint32_t sample_seed(uint32_t seed, int32_t index) {
    return index == 0 ? seed : usable(mix((static_cast<uint64_t>(seed) << 32) | static_cast<uint32_t>(index)));
}

}  // namespace darwin_neg
