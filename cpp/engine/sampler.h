#pragma once

#include "errors.h"
#include "model.h"
#include "request.h"

#include "common.h"
#include "sampling.h"

#include <cmath>
#include <optional>
#include <utility>
#include <vector>

namespace darwin_neg {

struct ChatPrompt;

// common's sampling parameters for a request (chat: what its prompt came from, or null), with the grammar or schema
// checked and turned into GBNF. Throws RequestError when the grammar, the schema or the order of samplers cannot be
// used.
common_params_sampling sampling_params(const Model & model, const RequestParams & request, const ChatPrompt * chat);

// One output row of a context. The logits stay the context's and hold until its next decode.
struct Row {
    const float * logits = nullptr;  // [n_vocab]
    float entropy        = NAN;      // predicted, nats; NaN without a head
};

// Reads output row `index` of the context's last batch. Only the thread that owns the context may.
Row read_row(llama_context * context, int32_t index, bool has_neg);

// What was chosen in one output row.
struct Drawn {
    llama_token token = LLAMA_TOKEN_NULL;
    common_neg_record neg{};           // NaN and inactive without a head
    float true_entropy = NAN;          // of the row's distribution at temperature 1, nats; set when asked for
    float logprob      = 0;            // natural logarithm, at temperature 1; set when asked for, as the two below
    std::vector<llama_token> top_ids;  // the most likely tokens of the row in descending order
    std::vector<float> top_logprobs;
};

// Chooses the tokens of one sample: common_sampler's chain, and a shortcut past it where the result is the same.
class Sampler {
public:
    // `base` comes from sampling_params; the seed rule of request.h applies to sample `index`. Penalties see the end of
    // the prompt. Throws RequestError when the parameters or the grammar are refused.
    Sampler(const Model & model, common_params_sampling base, uint32_t seed, int32_t index,
            const std::vector<llama_token> & prompt);

    // Chooses a token from a row and advances the sampler's state. n_logprobs, true_entropy: as in RequestParams, of
    // the row before gate, grammar, penalties and biases. Touches no context, so that the rows of one can be drawn in
    // parallel, each by a sampler of its own. Throws RequestError when no token is left to choose from (a grammar that
    // nothing in the vocabulary continues, or logits that are not numbers).
    Drawn draw(const Row & row, std::optional<int32_t> n_logprobs, bool true_entropy);

private:
    llama_token best(const float * logits) const;
    RequestError nothing_left() const;

    const Model & model_;
    common_sampler_ptr chain_;
    common_neg neg_;
    bool greedy_ = false;  // nothing but the biases stands between the logits and the largest of them
    std::vector<std::pair<llama_token, float>> biases_;  // by token, each token once
};

}  // namespace darwin_neg
