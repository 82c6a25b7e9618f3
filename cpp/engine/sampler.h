#pragma once

#include "model.h"
#include "request.h"

#include "common.h"
#include "sampling.h"

namespace darwin_neg {

// common's sampling parameters for a request, with the grammar or schema checked and turned into GBNF.
// Throws RequestError when the grammar or the schema cannot be used.
common_params_sampling sampling_params(const Model & model, const RequestParams & request);

// A sampler for sample `index`. `base` comes from sampling_params; the seed rule of request.h applies.
common_sampler_ptr make_sampler(const Model & model, common_params_sampling base, uint32_t seed, int32_t index);

// Draws the next token from output row `row`. Throws RequestError when no token is left to choose from
// (a grammar that nothing in the vocabulary continues, or logits that are not numbers).
llama_token sample_token(common_sampler * sampler, llama_context * context, int32_t row);

// Natural-log probabilities of row `row` at temperature 1, before gate, grammar, penalties and biases: of `token`, and the `k`
// largest in descending order (ties to the lower id), appended to the update.
void append_logprobs(const Model & model, llama_context * context, int32_t row, llama_token token, int32_t k, SampleUpdate & out);

// log(sum(exp(logits))) in float64 around the maximum, so that neither large logits nor a large vocabulary lose digits.
double log_sum_exp(const float * logits, int32_t n);

}  // namespace darwin_neg
