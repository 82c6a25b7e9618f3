#pragma once

// NEG in common_sampler: which stages a request gets, and the record of every accepted token.

#include "llama-neg.h"

#include <cmath>
#include <cstdint>
#include <vector>

// What a request asks for; unset values are the model's.
struct common_params_neg {
    int32_t action    = -1;  // -1: mask when the model has a head; else an llama_neg_action
    float   threshold = NAN; // NaN: the model's
    int32_t top_k     = 0;   // 0: the model's
    int32_t temp      = -1;  // divide kept logits by the model's temp_scale: -1 as the model says, 0 no, 1 yes
};

struct common_neg_record {
    float entropy; // predicted, nats; NaN when the context did not evaluate the head
    bool  active;  // the gate's stages were active for this token
};

// What one row of a context's output comes to. The logits stay the caller's.
struct common_neg_row {
    const float * logits  = nullptr; // [n_vocab]
    float         entropy = NAN;     // predicted, nats; NaN without a head
};

// The NEG part of a common_sampler.
struct common_neg {
    llama_neg_info info = {};

    int32_t        n_vocab = 0;
    common_neg_row row     = {}; // what common_sampler_sample_row samples from

    int32_t               action = LLAMA_NEG_OFF;
    llama_neg_gate_params gate   = {};

    common_neg_record              current = { NAN, false }; // of the row being sampled
    std::vector<common_neg_record> records;                  // one per accepted generated token

    void init(const llama_model * model, const common_params_neg & params) {
        info    = llama_model_neg_info(model);
        n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
        action  = !info.present ? LLAMA_NEG_OFF : params.action < 0 ? LLAMA_NEG_MASK : params.action;

        const bool temp = params.temp < 0 ? info.temp_enabled : params.temp > 0;

        gate.threshold  = std::isnan(params.threshold) ? info.threshold : params.threshold;
        gate.top_k      = params.top_k > 0 ? params.top_k : info.top_k;
        gate.temp_scale = temp ? info.temp_scale : 1.0f;
    }

    // first in the chain, before biases and penalties, as the reference applies the gate to the model's own logits
    void add_gate(std::vector<llama_sampler *> & samplers) const {
        if (action != LLAMA_NEG_OFF) {
            samplers.push_back(llama_sampler_init_neg_gate(gate));
        }
    }

    // right before the temperature; with a temperature above zero the chain draws from the kept tokens by itself
    void add_draw(std::vector<llama_sampler *> & samplers, float temp, uint32_t seed) const {
        if (action == LLAMA_NEG_SAMPLE && temp <= 0.0f) {
            samplers.push_back(llama_sampler_init_neg_draw(gate.threshold, seed));
        }
    }

    void observe(llama_context * ctx, int idx, llama_sampler * chain) {
        if (info.present) {
            observe(llama_get_neg_ith(ctx, idx), chain);
        }
    }

    // "active" is decided here and not by the stages, which do not run when sampling happens in the graph
    void observe(float entropy, llama_sampler * chain) {
        if (info.present) {
            current.entropy = entropy;
            current.active  = action != LLAMA_NEG_OFF && entropy > gate.threshold;
            llama_sampler_neg_set(chain, entropy);
        }
    }

    void take_row(std::vector<llama_token_data> & candidates, llama_sampler * chain) {
        candidates.resize(n_vocab);
        for (llama_token id = 0; id < n_vocab; ++id) {
            candidates[id] = { id, row.logits[id], 0.0f };
        }
        observe(row.entropy, chain);
    }

    // on acceptance, not on sampling: a token may be sampled twice (grammar) or rejected (speculation)
    void accept() {
        if (info.present) {
            records.push_back(current);
            current = { NAN, false };
        }
    }

    void reset() { records.clear(); }
};
