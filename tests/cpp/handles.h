#pragma once

// llama.cpp's handles with owners, and a batch that is filled token by token.

#include "llama.h"

#include <memory>

struct ModelDeleter {
    void operator()(llama_model * m) const { llama_model_free(m); }
};
struct ContextDeleter {
    void operator()(llama_context * c) const { llama_free(c); }
};
struct SamplerDeleter {
    void operator()(llama_sampler * s) const { llama_sampler_free(s); }
};
using Model   = std::unique_ptr<llama_model, ModelDeleter>;
using Context = std::unique_ptr<llama_context, ContextDeleter>;
using Sampler = std::unique_ptr<llama_sampler, SamplerDeleter>;

struct Batch {
    explicit Batch(int n) : b(llama_batch_init(n, 0, 1)) {}
    ~Batch() { llama_batch_free(b); }
    Batch(const Batch &)             = delete;
    Batch & operator=(const Batch &) = delete;

    void add(llama_token token, llama_pos pos, llama_seq_id seq, bool output) {
        const int i    = b.n_tokens++;
        b.token[i]     = token;
        b.pos[i]       = pos;
        b.n_seq_id[i]  = 1;
        b.seq_id[i][0] = seq;
        b.logits[i]    = output;
    }

    llama_batch b;
};
