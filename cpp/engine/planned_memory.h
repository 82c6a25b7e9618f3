#pragma once

#include "model.h"

#include <cstdint>
#include <vector>

namespace darwin_neg {

// Bytes that llama.cpp allocates: weights; what a context remembers (KV cache and recurrent states); intermediate
// results of the largest graph.
struct MemoryUse {
    uint64_t weights = 0;
    uint64_t context = 0;
    uint64_t compute = 0;
};

// What a model and the context that the engine makes of it would take, for each number of tokens in `contexts`, planned
// by llama.cpp without reading weights or allocating memory for them. The file may lack its data and its vocabulary.
// Throws what Model throws.
std::vector<MemoryUse> planned_memory(const ModelParams & params, const std::vector<uint32_t> & contexts);

}  // namespace darwin_neg
