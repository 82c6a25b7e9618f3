#pragma once

#include "llama.h"

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace darwin_neg {

enum class NegAction { off, mask, sample };

// What the inbox of a request hears of: every token, the end of each sample, or the end of all of them.
enum class Notify { token, sample, request };

// What one call of generate asks for. Values are validated by `validate_request` before anything is evaluated. An
// optional that is not set leaves the choice to the model, or switches the feature off where its comment says so. Names
// are those of darwin_neg_cpp.SamplingParams, and of llama.cpp's server where that has them.
struct RequestParams {
    int32_t n = 1;                      // samples of the one prompt
    std::optional<int32_t> max_tokens;  // of each sample; not set: to the end of the answer or of the context

    std::vector<float> temperature = {0.8f};  // of all samples, or one for each; <= 0: greedy
    float dynatemp_range           = 0.0f;    // 0: off
    float dynatemp_exponent        = 1.0f;
    int32_t top_k                  = 40;  // <= 0: off
    float top_p                    = 0.95f;
    float min_p                    = 0.05f;
    float typical_p                = 1.0f;
    float top_n_sigma              = -1.0f;  // < 0: off
    float xtc_probability          = 0.0f;   // 0: off
    float xtc_threshold            = 0.1f;
    float adaptive_target          = -1.0f;  // probability near which adaptive_p selects; < 0: off
    float adaptive_decay           = 0.9f;
    int32_t min_keep               = 0;  // candidates that top_p, min_p, typical_p and XTC leave at least
    int32_t mirostat               = 0;  // 0: off, 1, 2: instead of all truncating samplers
    float mirostat_tau             = 5.0f;
    float mirostat_eta             = 0.1f;

    float repeat_penalty                           = 1.0f;
    int32_t repeat_last_n                          = 64;  // -1: the whole context
    float frequency_penalty                        = 0.0f;
    float presence_penalty                         = 0.0f;
    float dry_multiplier                           = 0.0f;  // 0: off
    float dry_base                                 = 1.75f;
    int32_t dry_allowed_length                     = 2;
    int32_t dry_penalty_last_n                     = 64;  // -1: the whole context
    std::vector<std::string> dry_sequence_breakers = {"\n", ":", "\"", "*"};

    std::vector<std::string> samplers;               // names in the order in which they run; empty: llama.cpp's order
    std::optional<int32_t> reasoning_budget_tokens;  // of a chat's reasoning, which is then ended; not set: no limit
    std::optional<int64_t> seed;                     // not set: draw one

    std::vector<std::string> stop;
    std::vector<std::pair<llama_token, float>> logit_bias;
    std::optional<int32_t> logprobs;  // k: the chosen token's log-probability and the k largest
    bool true_entropy = false;        // record the entropy of each row
    std::string grammar;              // GBNF
    std::string json_schema;
    bool ignore_eos = false;

    std::optional<NegAction> neg_action;
    std::optional<float> neg_threshold;  // nats
    std::optional<int32_t> neg_top_k;
    std::optional<bool> neg_use_temp_scale;

    Notify notify = Notify::request;

    // Calls visit(name, value) for every field of `params`, so that what converts or checks all of them needs no list
    // of its own.
    template <typename Params, typename Visit>
    static void visit_fields(Params & params, Visit && visit) {
        visit("n", params.n);
        visit("max_tokens", params.max_tokens);
        visit("temperature", params.temperature);
        visit("dynatemp_range", params.dynatemp_range);
        visit("dynatemp_exponent", params.dynatemp_exponent);
        visit("top_k", params.top_k);
        visit("top_p", params.top_p);
        visit("min_p", params.min_p);
        visit("typical_p", params.typical_p);
        visit("top_n_sigma", params.top_n_sigma);
        visit("xtc_probability", params.xtc_probability);
        visit("xtc_threshold", params.xtc_threshold);
        visit("adaptive_target", params.adaptive_target);
        visit("adaptive_decay", params.adaptive_decay);
        visit("min_keep", params.min_keep);
        visit("mirostat", params.mirostat);
        visit("mirostat_tau", params.mirostat_tau);
        visit("mirostat_eta", params.mirostat_eta);
        visit("repeat_penalty", params.repeat_penalty);
        visit("repeat_last_n", params.repeat_last_n);
        visit("frequency_penalty", params.frequency_penalty);
        visit("presence_penalty", params.presence_penalty);
        visit("dry_multiplier", params.dry_multiplier);
        visit("dry_base", params.dry_base);
        visit("dry_allowed_length", params.dry_allowed_length);
        visit("dry_penalty_last_n", params.dry_penalty_last_n);
        visit("dry_sequence_breakers", params.dry_sequence_breakers);
        visit("samplers", params.samplers);
        visit("reasoning_budget_tokens", params.reasoning_budget_tokens);
        visit("seed", params.seed);
        visit("stop", params.stop);
        visit("logit_bias", params.logit_bias);
        visit("logprobs", params.logprobs);
        visit("true_entropy", params.true_entropy);
        visit("grammar", params.grammar);
        visit("json_schema", params.json_schema);
        visit("ignore_eos", params.ignore_eos);
        visit("neg_action", params.neg_action);
        visit("neg_threshold", params.neg_threshold);
        visit("neg_top_k", params.neg_top_k);
        visit("neg_use_temp_scale", params.neg_use_temp_scale);
        visit("notify", params.notify);
    }
};

// Throws RequestError naming the argument. `n_vocab` bounds the token ids of logit_bias.
void validate_request(const RequestParams & params, int32_t n_vocab);

// Whether the request asks for something that only a model with a NEG head can do.
bool asks_for_neg(const RequestParams & params);

// The seed of sample `index` of a request: depends on nothing else, and equals the request's own for index 0,
// so that a single sample repeats what llama.cpp's tools draw with the same --seed.
uint32_t sample_seed(uint32_t seed, int32_t index);

// A request seed as the samplers take it: 32 bits, never llama.cpp's LLAMA_DEFAULT_SEED, which would mean "random".
// Not set: draws one.
uint32_t fold_seed(std::optional<int64_t> seed);

}  // namespace darwin_neg
