#include "planned_memory.h"

#include "bindings.h"
#include "gil.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <tuple>
#include <vector>

namespace py = pybind11;

namespace darwin_neg {

void bind_memory(py::module_ & m) {
    m.def(
        "planned_memory",
        [](const ModelParams & params, const std::vector<uint32_t> & contexts) {
            const WithoutGil unlocked;
            std::vector<std::tuple<uint64_t, uint64_t, uint64_t>> out;
            for (const MemoryUse & use : planned_memory(params, contexts)) {
                out.emplace_back(use.weights, use.context, use.compute);
            }
            return out;
        },
        py::arg("params"), py::arg("contexts"),
        "(weights, context, compute buffer) in bytes for each number of tokens in `contexts`; nothing is allocated.");
}

}  // namespace darwin_neg
