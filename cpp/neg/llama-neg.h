#pragma once

// C API of the NEG stage that this build of libllama carries: a small head predicts the entropy of the next-token
// distribution from the LM head's input, a gate restricts sampling to the top-k tokens where that prediction is high.
//
// The head comes with the model file (tensors neg.*) or from a side-car GGUF, for any architecture, and is evaluated in
// the model's own graph for every output row.

#include "llama.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum llama_neg_action {
    LLAMA_NEG_OFF    = 0,
    LLAMA_NEG_MASK   = 1, // where active, only the top-k tokens can be chosen
    LLAMA_NEG_SAMPLE = 2, // the same, and where active one of them is drawn even if decoding is greedy
};

// present == false: all other fields are zero
struct llama_neg_info {
    bool    present;
    int32_t n_embd;       // width of the LM head's input
    int32_t n_reduced;    // width of the hidden layer
    float   threshold;    // nats, may be +inf (never active)
    int32_t top_k;
    float   temp_scale;   // > 0
    bool    temp_enabled; // whether kept logits are divided by temp_scale unless asked otherwise
};

LLAMA_API struct llama_neg_info llama_model_neg_info  (const struct llama_model * model);
LLAMA_API const char *          llama_model_neg_source(const struct llama_model * model); // "" when absent

// Loads a head from a side-car GGUF (or from the neg.* part of any GGUF); a head that the model already carries is
// replaced. Call it before the first context of the model is created. Returns 0, or -1 with nothing changed and one
// line in `err` that names file, tensor or key, and the remedy.
LLAMA_API int32_t llama_model_load_neg(struct llama_model * model, const char * path, char * err, size_t err_size);

// Predicted entropy in nats of output row i, with the index rules of llama_get_logits_ith. NaN when the model has no
// head, the context does not evaluate it (encoders, MTP drafts, training) or i is not an output row. Never aborts.
LLAMA_API float llama_get_neg_ith(struct llama_context * ctx, int32_t i);

struct llama_neg_gate_params {
    float   threshold;  // active where the predicted entropy is greater; NaN entropy is inactive
    int32_t top_k;      // >= 1
    float   temp_scale; // divides the kept logits; 1 = off
};

// The mask. Where active it keeps exactly min(top_k, candidates) candidates with the largest logits, ties going to the
// lowest token id, in the order they had. Where inactive it costs one comparison and changes nothing.
// As a backend sampler it runs in the graph instead, with the entropy taken from there; dropped tokens then get -inf.
LLAMA_API struct llama_sampler * llama_sampler_init_neg_gate(struct llama_neg_gate_params params);

// For action "sample" under greedy decoding: where active, draws one of the candidates left (softmax at temperature 1,
// its own generator) and leaves only that one.
LLAMA_API struct llama_sampler * llama_sampler_init_neg_draw(float threshold, uint32_t seed);

// Tells every NEG stage of a chain (or a single stage) the predicted entropy of the row about to be sampled.
LLAMA_API void llama_sampler_neg_set(struct llama_sampler * smpl, float entropy);

// Whether a stage of the chain (or the single stage) is active for the entropy last set.
LLAMA_API bool llama_sampler_neg_is_active(const struct llama_sampler * smpl);

#ifdef __cplusplus
}
#endif
