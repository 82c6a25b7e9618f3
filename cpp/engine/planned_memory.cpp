#include "planned_memory.h"

#include "scheduler.h"

#include "llama-ext.h"
#include "llama.h"

#include <vector>

namespace darwin_neg {

std::vector<MemoryUse> planned_memory(const ModelParams & params, const std::vector<uint32_t> & contexts) {
    const Model model(params, Model::Weights::planned);
    std::vector<MemoryUse> out;
    for (const uint32_t n_ctx : contexts) {
        ContextParams shape           = context_shape(model);
        shape.n_ctx                   = n_ctx;
        const LlamaContextPtr context = model.make_context(shape);
        MemoryUse sum;
        for (const auto & [type, part] : llama_get_memory_breakdown(context.get())) {
            sum.weights += part.model;
            sum.context += part.context;
            sum.compute += part.compute;
        }
        out.push_back(sum);
    }
    return out;
}

}  // namespace darwin_neg
