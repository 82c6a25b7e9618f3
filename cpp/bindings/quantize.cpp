#include "quantize.h"

#include "bindings.h"
#include "gil.h"

#include <memory>
#include <string>

namespace py = pybind11;

namespace darwin_neg {

namespace {

// What `work` returns, made while other threads of Python run.
template <typename Work>
auto unlocked(const Work & work) {
    const WithoutGil released;
    return work();
}

}  // namespace

void bind_quantize(py::module_ & m) {
    py::class_<QuantizeProgress, std::shared_ptr<QuantizeProgress>>(m, "QuantizeProgress")
        .def(py::init())
        .def_property_readonly("done", [](const QuantizeProgress & p) { return p.done.load(); })
        .def_property_readonly("total", [](const QuantizeProgress & p) { return p.total.load(); })
        .def("cancel", [](QuantizeProgress & p) { p.cancel = true; });
    m.def(
        "quantize",
        [](const std::string & model, const std::string & out, int32_t ftype, const std::string & imatrix,
           bool allow_requantize, int32_t n_threads, const std::shared_ptr<QuantizeProgress> & progress) {
            const py::gil_scoped_release unlocked;
            quantize(model, out, ftype, imatrix, allow_requantize, n_threads, *progress);
        },
        py::arg("model"), py::arg("out"), py::arg("ftype"), py::kw_only(), py::arg("imatrix"),
        py::arg("allow_requantize"), py::arg("n_threads"), py::arg("progress"));
    m.def(
        "quantized_types",
        [](const std::string & model, int32_t ftype, bool with_imatrix) {
            py::dict out;
            for (const auto & [name, type] : unlocked([&] { return quantized_types(model, ftype, with_imatrix); })) {
                out[lenient(name)] = lenient(type);
            }
            return out;
        },
        py::arg("model"), py::arg("ftype"), py::kw_only(), py::arg("with_imatrix"));
    m.def(
        "imatrix_sizes",
        [](const std::string & path) {
            py::dict out;
            for (const auto & [name, size] : unlocked([&] { return imatrix_sizes(path); })) {
                out[lenient(name)] = size;
            }
            return out;
        },
        py::arg("path"));
}

}  // namespace darwin_neg
