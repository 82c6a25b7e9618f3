// Backends of ggml that are libraries of their own. Which of them are loaded is decided in
// darwin_neg_cpp/engine/backends.py.

#include "bindings.h"

#include "log_sink.h"

#include "ggml-backend.h"

#include <pybind11/stl.h>

#include <string>

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace py = pybind11;

namespace darwin_neg {

// A backend describes itself in memory of the library that it comes from.
std::string library_of(const void * address) {
#ifdef _WIN32
    HMODULE module = nullptr;
    char path[32768];
    if (GetModuleHandleExA(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT,
                           static_cast<const char *>(address), &module) &&
        GetModuleFileNameA(module, path, sizeof(path)) > 0) {
        return path;
    }
    return "";
#else
    Dl_info info = {};
    return dladdr(address, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "";
#endif
}

void bind_backends(py::module_ & m) {
    m.def(
        "load_backends",
        [](const std::string & folder) {
            install_log_sink();
            ggml_backend_load_all_from_path(folder.c_str());
        },
        py::arg("folder"), "Loads of every kind of backend in a folder the one that suits this machine best.");
    m.def(
        "load_backend",
        [](const std::string & path) {
            install_log_sink();
            return ggml_backend_load(path.c_str()) != nullptr;
        },
        py::arg("path"), "Loads one backend, and says whether that worked.");
}

}  // namespace darwin_neg
