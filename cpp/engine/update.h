#pragma once

#include "llama.h"

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace darwin_neg {

// What is new of one sample since the last look. All vectors have one entry a token, the optional ones are empty when
// not asked for.
struct SampleUpdate {
    int32_t index = 0;
    std::vector<llama_token> tokens;
    std::vector<std::string> pieces;   // valid UTF-8; joined they are the new text
    std::vector<uint8_t> ends_inside;  // whether a token ends inside a character, which the next one continues
    std::vector<float> entropy;        // predicted, nats
    std::vector<uint8_t> active;
    std::vector<float> true_entropy;  // nats
    std::vector<float> logprobs;
    std::vector<llama_token> top_ids;  // [tokens, k]
    std::vector<float> top_logprobs;
    const char * finish_reason = nullptr;  // a literal; none while the sample runs
    std::optional<std::string> stop;
    std::optional<std::string> error;  // with finish_reason "refused" when the request itself is at fault, else "error"

    // Moves the records of the first n tokens of `from`, which has k alternatives a token, to the end of this one.
    // Text, reason and error are not records and stay.
    void take_front(SampleUpdate & from, size_t n, size_t k);
};

// What is new of one request.
struct Update {
    int64_t request         = 0;  // id
    bool finished           = false;
    uint32_t seed           = 0;
    int32_t n_prompt_tokens = 0;
    int32_t n_cached_tokens = 0;  // of those, decoded before for another request
    int32_t top_count       = 0;  // k of top_ids
    bool has_neg            = false;
    bool has_true_entropy   = false;
    float neg_threshold     = NAN;  // the model's, nats
    double prompt_seconds   = 0;    // from the first token of the prompt decoded to the last
    double generate_seconds = 0;    // from then to the last token so far
    std::vector<SampleUpdate> samples;
};

}  // namespace darwin_neg
