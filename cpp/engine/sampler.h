#pragma once

#include "errors.h"
#include "model.h"
#include "request.h"

#include "common.h"
#include "sampling.h"

#include <vector>

namespace darwin_neg {

// common's sampling parameters for a request, with the grammar or schema checked and turned into GBNF.
// Throws RequestError when the grammar or the schema cannot be used.
common_params_sampling sampling_params(const Model & model, const RequestParams & request);

// What was chosen in one output row.
struct Drawn {
    llama_token token = LLAMA_TOKEN_NULL;
    common_neg_record neg{};           // NaN and inactive without a head
    float logprob = 0;                 // natural logarithm, at temperature 1; set when asked for, as the two below
    std::vector<llama_token> top_ids;  // the most likely tokens of the row in descending order
    std::vector<float> top_logprobs;
};

// Chooses the tokens of one sample: common_sampler's chain, and a shortcut past it where the result is the same.
class Sampler {
public:
    // `base` comes from sampling_params; the seed rule of request.h applies to sample `index`. Penalties see the end of the prompt.
    Sampler(const Model & model, common_params_sampling base, uint32_t seed, int32_t index, const std::vector<llama_token> & prompt);

    // Chooses a token from output row `row` of the context and goes on behind it. n_logprobs: RequestParams::logprobs, of the row
    // before gate, grammar, penalties and biases. Several samplers may draw from one context at once when each row's logits
    // have been looked up before. Throws RequestError when no token is left to choose from (a grammar that nothing in the vocabulary
    // continues, or logits that are not numbers).
    Drawn draw(llama_context * context, int32_t row, int32_t n_logprobs);

private:
    llama_token best(const float * logits) const;
    RequestError nothing_left() const;

    const Model & model_;
    common_sampler_ptr chain_;
    common_neg neg_;
    bool greedy_ = false;                                // nothing but the biases stands between the logits and the largest of them
    std::vector<std::pair<llama_token, float>> biases_;  // by token, each token once
};

}  // namespace darwin_neg
