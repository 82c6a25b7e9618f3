// Backends of ggml that are libraries of their own. Which of them are loaded is decided in
// darwin_neg_cpp/engine/backends.py.

#include "bindings.h"

#include "errors.h"
#include "gil.h"
#include "log_sink.h"
#include "rpc_servers.h"

#include "ggml-backend.h"

#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

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
    m.def(
        "backend_libraries",
        [] {
            py::list out;
            for (size_t i = 0; i < ggml_backend_reg_count(); ++i) {
                out.append(lenient(library_of(ggml_backend_reg_get(i))));
            }
            return out;
        },
        "Files of the libraries that the loaded backends come from.");
    m.def(
        "check_rpc_servers",
        [](std::vector<std::string> servers) {
            const WithoutGil unlocked;
            (void)RpcServers(std::move(servers));
        },
        py::arg("servers"), "Raises DarwinNegError for the first server that does not answer.");
    m.def(
        "run_rpc_server",
        [](const std::string & address, const std::string & cache, size_t n_threads,
           const std::vector<std::string> & names) {
            const WithoutGil unlocked;
            std::vector<ggml_backend_dev_t> devices;
            for (const std::string & name : names) {
                devices.push_back(ggml_backend_dev_by_name(name.c_str()));
                if (devices.back() == nullptr) {
                    throw RequestError("devices must be devices of this machine, got '" + name + "'");
                }
            }
            run_rpc_server(address, cache, n_threads, std::move(devices));
        },
        py::arg("address"), py::arg("cache"), py::arg("n_threads"), py::arg("devices"),
        "Lends devices to one program at a time. Returns only when the server could not be started.");
}

}  // namespace darwin_neg
