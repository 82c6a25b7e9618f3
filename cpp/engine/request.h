#pragma once

#include "llama.h"

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace darwin_neg {

struct ChatPrompt;

enum class NegAction { model_default, off, mask, sample };

// What one call of generate asks for. Values are validated by `validate_request` before anything is evaluated.
struct RequestParams {
    int32_t n          = 1;   // samples of the one prompt
    int32_t max_tokens = -1;  // of each sample; -1: to the end of the answer or of the context

    float temperature = 0.8f;         // <= 0: greedy
    std::vector<float> temperatures;  // of each sample, instead of the one above; empty: that one for all
    int32_t top_k           = 40;     // <= 0: off
    float top_p             = 0.95f;
    float min_p             = 0.05f;
    float typical_p         = 1.0f;
    float repeat_penalty    = 1.0f;
    int32_t repeat_last_n   = 64;  // -1: the whole context
    float frequency_penalty = 0.0f;
    float presence_penalty  = 0.0f;
    int64_t seed            = -1;  // -1: draw one

    std::vector<std::string> stop;
    std::vector<std::pair<llama_token, float>> logit_bias;
    int32_t logprobs = -1;  // -1: none, k >= 0: the chosen token's and the k largest
    std::string grammar;    // GBNF
    std::string json_schema;
    bool ignore_eos = false;

    NegAction neg_action       = NegAction::model_default;
    float neg_threshold        = std::numeric_limits<float>::quiet_NaN();  // NaN: the model's
    int32_t neg_top_k          = 0;                                        // 0: the model's
    int32_t neg_use_temp_scale = -1;                                       // -1: the model's, 0 off, 1 on

    bool stream = false;

    std::shared_ptr<const ChatPrompt> chat;  // set when the prompt came from a chat template
};

// What is new of one sample since the last look. All vectors have one entry a token, the optional ones are empty when not asked for.
struct SampleUpdate {
    int32_t index = 0;
    std::vector<llama_token> tokens;
    std::vector<std::string> pieces;  // valid UTF-8; joined they are the new text
    std::vector<float> entropy;       // predicted, nats
    std::vector<uint8_t> active;
    std::vector<float> logprobs;
    std::vector<llama_token> top_ids;  // [tokens, k]
    std::vector<float> top_logprobs;
    std::string finish_reason;  // empty while running
    std::optional<std::string> stop;
    std::optional<std::string> error;  // with finish_reason "refused" when the request itself is at fault, else "error"
};

struct Update {
    bool finished           = false;
    uint32_t seed           = 0;
    int32_t n_prompt_tokens = 0;
    int32_t top_count       = 0;  // k of top_ids
    bool has_neg            = false;
    double prompt_seconds   = 0;  // from the first token of the prompt decoded to the last
    double generate_seconds = 0;  // from then to the last token so far
    std::vector<SampleUpdate> samples;
};

// Throws RequestError naming the argument. `n_vocab` bounds the token ids of logit_bias.
void validate_request(const RequestParams & params, int32_t n_vocab);

// The seed of sample `index` of a request: depends on nothing else, and equals the request's own for index 0,
// so that a single sample repeats what llama.cpp's tools draw with the same --seed.
uint32_t sample_seed(uint32_t seed, int32_t index);

// A request seed as the samplers take it: 32 bits, never llama.cpp's LLAMA_DEFAULT_SEED, which would mean "random".
uint32_t fold_seed(int64_t seed);

}  // namespace darwin_neg
