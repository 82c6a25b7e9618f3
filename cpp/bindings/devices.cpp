#include "bindings.h"

#include "log_sink.h"

#include "ggml-backend.h"
#include "llama.h"

#include <pybind11/stl.h>

#include <string>

namespace py = pybind11;

namespace darwin_neg {

namespace {

const char * type_name(enum ggml_backend_dev_type type) {
    switch (type) {
        case GGML_BACKEND_DEVICE_TYPE_CPU: return "cpu";
        case GGML_BACKEND_DEVICE_TYPE_GPU: return "gpu";
        case GGML_BACKEND_DEVICE_TYPE_IGPU: return "igpu";
        default: return "accel";
    }
}

py::list devices() {
    py::list out;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        size_t free               = 0;
        size_t total              = 0;
        ggml_backend_dev_memory(device, &free, &total);
        py::dict entry;
        entry["name"]         = ggml_backend_dev_name(device);
        entry["description"]  = ggml_backend_dev_description(device);
        entry["type"]         = type_name(ggml_backend_dev_type(device));
        entry["library"]      = lenient(library_of(ggml_backend_dev_backend_reg(device)));
        entry["memory_free"]  = free;
        entry["memory_total"] = total;
        out.append(entry);
    }
    return out;
}

}  // namespace

py::str lenient(const std::string & text) {
    return py::reinterpret_steal<py::str>(
        PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()), "replace"));
}

void bind_devices(py::module_ & m) {
    m.def("devices", [] {
        install_log_sink();
        return devices();
    });
    // llama.cpp's own answer counts devices that other machines might lend
    m.def("supports_gpu_offload", [] {
        return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU) != nullptr ||
               ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_IGPU) != nullptr;
    });
    m.def("drain_log", [] {
        py::list lines;
        for (const auto & [level, text] : drain_log()) {
            lines.append(py::make_tuple(level, lenient(text)));
        }
        return lines;
    });
}

}  // namespace darwin_neg
