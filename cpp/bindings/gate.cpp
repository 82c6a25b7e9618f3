// The two forms of the gate on plain arrays, so that tests can compare them with a reference row by row.

#include "bindings.h"

#include "errors.h"

#include "llama-neg.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"

#include <pybind11/numpy.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

namespace py = pybind11;

namespace darwin_neg {

namespace {

using Rows = py::array_t<float, py::array::c_style | py::array::forcecast>;

struct SamplerDeleter {
    void operator()(llama_sampler * sampler) const { llama_sampler_free(sampler); }
};

std::unique_ptr<llama_sampler, SamplerDeleter> make_gate(float threshold, int32_t top_k, float temp_scale) {
    return std::unique_ptr<llama_sampler, SamplerDeleter>(llama_sampler_init_neg_gate({threshold, top_k, temp_scale}));
}

void check_shapes(const Rows & logits, const Rows & entropy) {
    if (logits.ndim() != 2 || entropy.ndim() != 1 || entropy.shape(0) != logits.shape(0) || logits.shape(1) == 0) {
        throw RequestError("logits must be [rows, n] and entropy [rows]");
    }
}

Rows gate_apply(const Rows & logits, const Rows & entropy, float threshold, int32_t top_k, float temp_scale) {
    check_shapes(logits, entropy);
    const auto rows = logits.shape(0);
    const auto n    = logits.shape(1);
    const auto gate = make_gate(threshold, top_k, temp_scale);
    Rows out({rows, n});

    std::vector<llama_token_data> data(n);
    for (py::ssize_t r = 0; r < rows; ++r) {
        for (py::ssize_t i = 0; i < n; ++i) {
            data[i] = {static_cast<llama_token>(i), logits.at(r, i), 0.0f};
        }
        llama_token_data_array candidates = {data.data(), data.size(), -1, false};
        llama_sampler_neg_set(gate.get(), entropy.at(r));
        llama_sampler_apply(gate.get(), &candidates);
        for (py::ssize_t i = 0; i < n; ++i) {
            out.mutable_at(r, i) = -INFINITY;
        }
        for (size_t i = 0; i < candidates.size; ++i) {
            out.mutable_at(r, candidates.data[i].id) = candidates.data[i].logit;
        }
    }
    return out;
}

Rows gate_apply_graph(const Rows & logits, const Rows & entropy, float threshold, int32_t top_k, float temp_scale,
                      const std::string & device) {
    check_shapes(logits, entropy);
    const auto rows = logits.shape(0);
    const auto n    = logits.shape(1);
    const auto gate = make_gate(threshold, top_k, temp_scale);
    Rows out({rows, n});

    // one graph, run once per row, as the scheduler of llama.cpp reuses it
    const size_t meta = 64 * ggml_tensor_overhead() + ggml_graph_overhead();
    ggml_context_ptr context(ggml_init({meta, nullptr, true}));
    ggml_cgraph * graph = ggml_new_graph(context.get());

    llama_sampler_data io = {};
    ggml_tensor * in      = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, n);
    io.logits             = in;
    io.neg                = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, 1);
    ggml_set_input(in);
    ggml_set_input(io.neg);
    gate->iface->backend_apply(gate.get(), context.get(), graph, &io);
    ggml_build_forward_expand(graph, io.logits);
    ggml_backend_dev_t found = ggml_backend_dev_by_name(device.c_str());
    if (found == nullptr) {
        throw RequestError("device '" + device +
                           "' does not exist; darwin_neg_cpp._core.devices() lists those that do");
    }
    ggml_backend_ptr backend(ggml_backend_dev_init(found, nullptr));
    // the CPU's own functions may lie in a plug-in, which nothing is linked with
    if (auto * set_n_threads = reinterpret_cast<ggml_backend_set_n_threads_t>(
            ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(found), "ggml_backend_set_n_threads"))) {
        set_n_threads(backend.get(), 1);  // the rows are small
    }
    ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors(context.get(), backend.get()));
    for (py::ssize_t r = 0; r < rows; ++r) {
        ggml_backend_tensor_set(in, logits.data(r, 0), 0, n * sizeof(float));
        ggml_backend_tensor_set(io.neg, entropy.data(r), 0, sizeof(float));
        ggml_backend_graph_compute(backend.get(), graph);
        ggml_backend_tensor_get(io.logits, out.mutable_data(r, 0), 0, n * sizeof(float));
    }
    return out;
}

}  // namespace

void bind_gate(py::module_ & m) {
    m.def("gate_apply", &gate_apply, py::arg("logits"), py::arg("entropy"), py::arg("threshold"), py::arg("top_k"),
          py::arg("temp_scale"),
          "The gate on the host: logits [rows, n], entropy [rows] -> [rows, n] with -inf for dropped tokens.");
    m.def("gate_apply_graph", &gate_apply_graph, py::arg("logits"), py::arg("entropy"), py::arg("threshold"),
          py::arg("top_k"), py::arg("temp_scale"), py::arg("device") = "CPU",
          "The same through the gate's ggml graph on a device, named as devices() does.");
}

}  // namespace darwin_neg
