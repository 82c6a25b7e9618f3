#pragma once

// llama.cpp's handles with owners, and a batch that is filled token by token: the engine's own.

#include "batch.h"
#include "model.h"

#include "llama.h"

#include <memory>

struct SamplerDeleter {
    void operator()(llama_sampler * s) const { llama_sampler_free(s); }
};

using Model   = darwin_neg::LlamaModelPtr;
using Context = darwin_neg::LlamaContextPtr;
using Sampler = std::unique_ptr<llama_sampler, SamplerDeleter>;
using darwin_neg::Batch;
